"""What a recognizer costs: parameters, multiply-adds, time and memory; and how far back its core can learn from."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from reelscribe.models.recognizer import Recognizer

LIVE_GRADIENT = 1e-3  # of the gradient of the newest frame
LONGEST_LAG = 255  # frames

_TIMED_STEPS = 50
_GAP_S = 0.1  # between frames, where the network is told


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Figures of one network; times are of this machine."""

    parameters: int  # all
    head_parameters: int  # all but the encoder's
    encoder_macs: int  # multiply-adds a frame, of convolutions and matrix products
    head_macs: int  # the same, of all that follows the encoder
    step_ms: float | None  # one more frame of one stream: the fastest of 50, which other work disturbs least; None where it cannot step
    head_step_ms: float | None  # the same without the encoder
    training_mb: float  # a training step: weights, gradients, optimizer state, and what is kept for the backward pass
    gradient_lag: int  # frames back to which a gradient of LIVE_GRADIENT or more reaches; LONGEST_LAG at most


class _Given(nn.Module):
    """An encoder that has its answer ready."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.grid = grid

    def clips(self, frames: Tensor, carried: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: ARG002
        """Frames (B, T, 3, H, W) -> the grid for each, whatever they show."""
        return self.grid.expand(*frames.shape[:2], -1, -1, -1), ()


def measure(model: Recognizer, *, frame_size: tuple[int, int], batch_size: int, num_frames: int, device: torch.device) -> Cost:
    """All figures of a network, on frames of noise. Training is of ``batch_size`` clips of ``num_frames``; the model is left as it was."""
    model = copy.deepcopy(model).to(device).eval()
    frames = torch.randint(0, 256, (1, 3, *frame_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        grid = model.encode(frames[:, None])[0]  # (1, D, h, w)
    encoder_macs = _macs(lambda: model.encode(frames[:, None]))
    head = copy.copy(model)
    head._modules = {**model._modules, "encoder": _Given(grid)}
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    fixed = sum(p.numel() * p.element_size() for p in model.parameters()) - learning
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(
        parameters=parameters,
        head_parameters=parameters - sum(p.numel() for p in model.encoder.parameters()),
        encoder_macs=encoder_macs,
        head_macs=_macs(lambda: model(frames[:, None], torch.ones(1, dtype=torch.long, device=device), _gaps(model, 1, 1))) - encoder_macs,
        step_ms=_step_ms(model, frames) if model.causal else None,
        head_step_ms=_step_ms(head, frames) if model.causal else None,
        training_mb=(fixed + 4 * learning + _kept_bytes(model, frames, grid, batch_size, num_frames)) / 1e6,  # AdamW has two moments
        gradient_lag=gradient_lag(model, grid),
    )


def _macs(run: Callable[[], object]) -> int:
    """Multiply-adds, by PyTorch's counter, which does not know oneDNN's fused LSTM."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _fused_flops}) as counter:
        run()
    flops: int = counter.get_total_flops()
    return flops // 2


def _fused_flops(x: Sequence[int], weight_ih: Sequence[int], weight_hh: Sequence[int], *_: object, **__: object) -> int:
    """Of one layer over x (T, B, input); shapes of the weights are (gates, input) and (gates, hidden)."""
    return 2 * x[0] * x[1] * (math.prod(weight_ih) + math.prod(weight_hh))


def _gaps(model: Recognizer, clips: int, frames: int) -> Tensor | None:
    """Even seconds between frames (clips, frames), for a network that takes them."""
    return torch.full((clips, frames), _GAP_S, device=model.classifier.weight.device) if model.takes_gaps else None


@torch.inference_mode()
def _step_ms(model: Recognizer, frame: Tensor) -> float:
    """Milliseconds for one more frame (1, 3, H, W) of a running stream."""
    state, times = None, []
    gaps = _gaps(model, 1, 1)
    gap = None if gaps is None else gaps[:, 0]
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        logits, state = model.step(frame, state, gap)
        logits.cpu()  # waits for a GPU
        times.append(time.perf_counter() - started)
    return min(times) * 1e3


def _kept_bytes(model: Recognizer, frame: Tensor, grid: Tensor, batch_size: int, num_frames: int) -> int:
    """Bytes of tensors kept for the backward pass over a batch: of frames where the encoder learns, else of its grids."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    lengths = torch.full((batch_size,), num_frames, device=frame.device)
    gaps = _gaps(model, batch_size, num_frames)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if any(parameter.requires_grad for parameter in model.encoder.parameters()):
            logits = model(frame.expand(batch_size, num_frames, -1, -1, -1), lengths, gaps)
        else:
            states = model.forward_features(grid.expand(batch_size, num_frames, -1, -1, -1), lengths, gaps)
            logits = model.forward_head(states, lengths)
    model.eval()
    del logits  # until here it held all that was kept, so that no address came twice
    return sum(kept.values())


def gradient_lag(model: Recognizer, grid: Tensor) -> int:
    """How many frames back the core's last output still answers to its input.

    The core gets inputs made of random grids like ``grid`` (1, D, h, w). Its last output is summed with random signs; the norm of the
    gradient at each earlier input, mean over 4 clips, is compared with that at the last (Bengio et al. 1994; arXiv 1211.5063).
    """
    draw = torch.Generator().manual_seed(0)
    noise = grid.mean() + grid.std() * torch.randn(4, LONGEST_LAG + 1, *grid.shape[1:], generator=draw).to(grid.device)
    seen: list[Tensor] = []
    hook = model.recurrent.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    gaps = _gaps(model, *noise.shape[:2])
    with torch.no_grad():
        model.forward_features(noise, torch.full((4,), LONGEST_LAG + 1, device=grid.device), gaps)
    hook.remove()
    x = seen[0].requires_grad_()
    last = model.recurrent(x, gaps=gaps)[0][:, -1]
    signs = torch.randn(last.shape, generator=draw).sign().to(last.device)
    (gradient,) = torch.autograd.grad((last * signs).sum(), x)
    norms = gradient.flatten(2).norm(dim=2).mean(dim=0).flip(0)  # by lag
    return int(torch.nonzero(norms >= LIVE_GRADIENT * norms[0]).max())
