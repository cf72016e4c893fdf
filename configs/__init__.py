"""Complete YAML files that a user copies and edits."""
