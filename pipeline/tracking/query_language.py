"""The registry's query language: from text to a checked tree. Pure; nothing here knows MLflow.

::

    query      = [ condition ] [ "order by" key { "," key } ] [ "limit" NUMBER ]
    condition  = both { "or" both }
    both       = one { "and" one }
    one        = "not" one | "(" condition ")" | comparison
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) literal
               | field [ "not" ] "in" "(" literal { "," literal } ")"
               | field [ "not" ] ( "like" | "ilike" ) TEXT
    key        = field [ "asc" | "desc" ]
    literal    = TEXT | NUMBER | DATE | "true" | "false"

============================  ========  =====================================================================================
field                         type      compared with
============================  ========  =====================================================================================
name, run_id, status          text      text
version                       number    numbers
created                       date      dates: 2026-01-31 (its first moment) or 2026-01-31T12:30, UTC unless an offset is given
alias                         texts     text; true if any of the version's aliases fits (``!=``, ``not``: if none does)
metrics.NAME                  number    numbers
params.NAME, tags.NAME        open      text as text, numbers as numbers (a value that is no number fits none), true and false
============================  ========  =====================================================================================

A comparison with something that a version does not have is false, whatever the operator; ``not`` turns it round. In ``like``, ``%``
stands for any text and ``_`` for one character; ``ilike`` ignores case. Text stands in single or double quotes (doubled inside);
a NAME with blanks or signs stands in backticks: metrics.`val loss`. Key words may be written in any case. ``order by`` puts
versions without the field last; without it, and among equals, the order is by name, newest version first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn

from reelscribe.pipeline.errors import QueryError, nearest

Kind = Literal["text", "number", "date", "texts", "open"]
Value = str | float | bool | datetime

PLAIN_FIELDS: dict[str, Kind] = {
    "name": "text",
    "version": "number",
    "alias": "texts",
    "created": "date",
    "run_id": "text",
    "status": "text",
}
KEYED_FIELDS: dict[str, Kind] = {"metrics": "number", "params": "open", "tags": "open"}
_ORDERED = ("<", "<=", ">", ">=")
_OPERATORS = ("=", "!=", *_ORDERED, "in", "like", "ilike")
_KEY_WORDS = ("and", "or", "not", "in", "like", "ilike", "order", "by", "asc", "desc", "limit", "true", "false")
_MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""(?P<blank>\s+)
    | (?P<date>\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?(?![\w.-]))
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.-]))
    | (?P<text>'(?:[^']|'')*' | "(?:[^"]|"")*")
    | (?P<word>[^\W\d][\w/-]*(?:\.(?:[\w/-]+|`[^`]+`))*)
    | (?P<operator><=|>=|!=|==|<>|&&|\|\||=|<|>)
    | (?P<mark>[(),])
    """,
    re.VERBOSE,
)
_OTHERS_WRITE = {"==": "=", "<>": "!=", "&&": "and", "||": "or"}


@dataclass(frozen=True, kw_only=True)
class Field:
    """Something a version has: ``name`` or, with a key, ``metrics.KEY``."""

    group: str
    key: str = ""
    kind: Kind
    position: int  # in the text of the query

    def __str__(self) -> str:
        if not self.key:
            return self.group
        return f"{self.group}.{self.key}" if re.fullmatch(r"[\w/-]+(\.[\w/-]+)*", self.key) else f"{self.group}.`{self.key}`"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One field against one literal, or several for ``in``."""

    field: Field
    operator: str  # one of = != < <= > >= in like ilike
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Negation:
    """True where the part is false."""

    part: Condition


@dataclass(frozen=True, kw_only=True)
class Group:
    """All parts, or any of them."""

    operator: Literal["and", "or"]
    parts: tuple[Condition, ...]


Condition = Comparison | Negation | Group


@dataclass(frozen=True, kw_only=True)
class OrderKey:
    """One key of the order."""

    field: Field
    descending: bool


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query that was read and checked; no condition means every version."""

    text: str
    condition: Condition | None
    order: tuple[OrderKey, ...]
    limit: int | None


@dataclass(frozen=True)
class _Token:
    kind: str  # date, number, text, word, operator, mark, end
    text: str
    position: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "word" else ""


def parse_query(text: str) -> Query:
    """Read a query. Raises QueryError that shows the spot."""
    return _Parser(text).query()


def fail(text: str, position: int, message: str) -> NoReturn:
    """Raise a QueryError with the text and a mark under the position."""
    line = re.sub(r"\s", " ", text)
    raise QueryError(f"{message}\n  {line}\n  {' ' * position}^")


def fields_of(condition: Condition | None) -> Iterator[Field]:
    """Every field a condition names, in order."""
    match condition:
        case Comparison(field=field):
            yield field
        case Negation(part=part):
            yield from fields_of(part)
        case Group(parts=parts):
            for part in parts:
                yield from fields_of(part)


def keyed_fields(query: Query) -> list[Field]:
    """The metrics, parameters and tags that a query names, each once."""
    named = [*fields_of(query.condition), *(key.field for key in query.order)]
    return list({str(field): field for field in named if field.key}.values())


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            sign = text[position]
            problem = "this text has no closing quote" if sign in "'\"" else f"unexpected '{text[position:].split()[0][:20]}'"
            fail(text, position, problem)
        if found[0] in _OTHERS_WRITE:
            fail(text, position, f"'{found[0]}' is written '{_OTHERS_WRITE[found[0]]}' here")
        if found.lastgroup != "blank":
            yield _Token(found.lastgroup, found[0], position)
        position = found.end()
    yield _Token("end", "", len(text))


class _Parser:
    """Recursive descent, one method a rule of the grammar at the top."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def query(self) -> Query:
        condition = None
        if self._peek.kind != "end" and self._peek.word not in ("order", "limit"):
            condition = self._condition()
        order = self._order() if self._accept("order") else ()
        limit = self._limit() if self._accept("limit") else None
        if self._peek.kind != "end":
            self._unexpected("'and', 'or', 'order by', 'limit' or the end" if not order and limit is None else "the end")
        return Query(text=self._text, condition=condition, order=order, limit=limit)

    def _condition(self) -> Condition:
        return self._group("or", lambda: self._group("and", self._one))

    def _group(self, operator: Literal["and", "or"], part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._accept(operator):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Group(operator=operator, parts=tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            fail(self._text, self._peek.position, f"nested more than {_MAX_DEPTH} deep")
        condition: Condition
        if self._accept("not"):
            condition = Negation(part=self._one())
        elif self._accept_mark("("):
            condition = self._condition()
            self._expect_mark(")")
        else:
            condition = self._comparison()
        self._depth -= 1
        return condition

    def _comparison(self) -> Condition:
        field = self._field()
        negated = self._accept("not")
        token = self._take()
        operator = token.word or token.text
        if operator not in _OPERATORS or token.kind not in ("word", "operator") or (negated and operator not in ("in", "like", "ilike")):
            self._next -= 1
            self._unexpected("'in', 'like' or 'ilike'" if negated else f"an operator ({' '.join(_OPERATORS)}, not in, not like)")
        self._check_operator(field, operator, token)
        if operator == "in":
            self._expect_mark("(")
            values = [self._literal(field, operator)]
            while self._accept_mark(","):
                values.append(self._literal(field, operator))
            self._expect_mark(")")
        else:
            values = [self._literal(field, operator)]
        comparison = Comparison(field=field, operator=operator, values=tuple(values))
        if not negated:
            return comparison
        # "not in" is false for what a version does not have, as every operator is; a plain `not` would make it true
        return Comparison(field=field, operator=f"not {operator}", values=tuple(values))

    def _field(self) -> Field:
        token = self._take()
        if token.kind != "word" or token.word in _KEY_WORDS:
            self._next -= 1
            self._unexpected(f"a field ({_known_fields()})")
        group, dot, key = token.text.partition(".")
        if not dot and group in PLAIN_FIELDS:
            return Field(group=group, kind=PLAIN_FIELDS[group], position=token.position)
        if dot and group in KEYED_FIELDS:
            return Field(group=group, key=key.replace("`", ""), kind=KEYED_FIELDS[group], position=token.position)
        if group in KEYED_FIELDS:
            fail(self._text, token.position, f"'{group}' needs a name after a dot: {group}.NAME")
        if group in PLAIN_FIELDS:
            fail(self._text, token.position, f"'{group}' takes no name after a dot")
        hint = nearest(group.lower(), [*KEYED_FIELDS] if dot else [*PLAIN_FIELDS, *KEYED_FIELDS])
        hint = hint or ("" if dot else f"; a metric is written metrics.{group}, a parameter params.{group}")
        fail(self._text, token.position, f"unknown field '{token.text}'{hint} (fields: {_known_fields()})")

    def _check_operator(self, field: Field, operator: str, token: _Token) -> None:
        if operator in ("like", "ilike") and field.kind in ("number", "date"):
            fail(self._text, token.position, f"'{operator}' compares text, and {field} is a {field.kind}")
        if operator in _ORDERED and field.kind == "texts":
            fail(self._text, token.position, f"'{operator}' needs an order, and a version may have several aliases: use =, !=, in or like")

    def _literal(self, field: Field, operator: str) -> Value:
        token = self._take()
        value = self._value(token)
        match field.kind:
            case "date" if token.kind == "text":
                value = self._date(token, str(value))
            case "number" if isinstance(value, bool) or not isinstance(value, float):
                self._mismatch(token, f"{field} is a number", "write a number without quotes, e.g. 0.9")
            case "date" if not isinstance(value, datetime):
                self._mismatch(token, f"{field} is a date", "write it as 2026-01-31")
            case "text" | "texts" if not isinstance(value, str):
                self._mismatch(token, f"{field} is text", f"write '{token.text}'")
            case "open" if isinstance(value, datetime):
                self._mismatch(token, f"{field} is text or a number", f"write '{token.text}'")
        if operator in ("like", "ilike") and not isinstance(value, str):
            self._mismatch(token, f"'{operator}' compares text", f"write '{token.text}'")
        if operator in _ORDERED and isinstance(value, bool):
            self._mismatch(token, f"'{operator}' needs a number or text", "use = or !=")
        return value

    def _value(self, token: _Token) -> Value:
        match token.kind:
            case "number":
                return float(token.text)
            case "text":
                quote = token.text[0]
                return token.text[1:-1].replace(quote * 2, quote)
            case "date":
                return self._date(token, token.text)
            case "word" if token.word in ("true", "false"):
                return token.word == "true"
        got = (
            f"'{token.text}'; write it in quotes if it is text" if token.kind == "word" else f"'{token.text}'" if token.text else "the end"
        )
        fail(self._text, token.position, f"expected a text in quotes, a number, a date, true or false, got {got}")

    def _date(self, token: _Token, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self._mismatch(token, f"'{text}' is no date", "write it as 2026-01-31 or 2026-01-31T12:30")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _order(self) -> tuple[OrderKey, ...]:
        if not self._accept("by"):
            self._unexpected("'by' after 'order'")
        keys = [self._order_key()]
        while self._accept_mark(","):
            keys.append(self._order_key())
        return tuple(keys)

    def _order_key(self) -> OrderKey:
        field = self._field()
        if field.kind == "texts":
            fail(self._text, field.position, "versions have no order by alias, as they may have several")
        descending = self._accept("desc")
        if not descending:
            self._accept("asc")
        return OrderKey(field=field, descending=descending)

    def _limit(self) -> int:
        token = self._take()
        if token.kind != "number" or not token.text.isdigit() or int(token.text) < 1:
            self._next -= 1
            self._unexpected("a whole number of at least 1 after 'limit'")
        return int(token.text)

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        self._next += 1
        return token

    def _accept(self, word: str) -> bool:
        if self._peek.word != word:
            return False
        self._next += 1
        return True

    def _accept_mark(self, mark: str) -> bool:
        if self._peek.kind != "mark" or self._peek.text != mark:
            return False
        self._next += 1
        return True

    def _expect_mark(self, mark: str) -> None:
        if not self._accept_mark(mark):
            self._unexpected(f"'{mark}'")

    def _mismatch(self, token: _Token, fact: str, advice: str) -> NoReturn:
        fail(self._text, token.position, f"{fact}, got {token.text}; {advice}")

    def _unexpected(self, wanted: str) -> NoReturn:
        token = self._peek
        got = f"'{token.text}'" if token.kind != "end" else "the end of the query"
        close = nearest(token.word, _KEY_WORDS) if token.word else ""
        fail(self._text, token.position, f"expected {wanted}, got {got}{close}")


def _known_fields() -> str:
    return ", ".join([*PLAIN_FIELDS, *(f"{group}.NAME" for group in KEYED_FIELDS)])
