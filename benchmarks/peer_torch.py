"""Our super-nets in PyTorch with the same weights: what the speed of our evaluator is compared with.

Both routes run every architecture on every image, normalised by the batch, with one thread a core as ours; logits equal
ours to 1e-4 (tests/test_peer_torch.py). Neither is held back: weights stay on the device, images are copied there once
a call, and "none" edges cost nothing (published code multiplies by zero).

- `torch_eager`: as published code does it. A Python loop over architectures, eager, no_grad, default memory layout, all
  cores on one operation (PyTorch's default), loss and accuracy fetched after each batch.
- `torch_best`: PyTorch at its fastest for networks that share nothing. channels_last, inference_mode, layers through
  torch.compile, on CPU an architecture for each core (as our serial route). On a GPU nothing is fetched until the end,
  and an architecture that meets more than two whole batches is captured as a CUDA graph, which the others replay.

Both compute in the number type that ours do; batch normalisation's sums stay in float32, as ours.

torch.compile in CPU time (Xeon with AVX-512, PyTorch 2.13, width 16, 64 images of 32 px): layers about 1.1x as fast for
random codes, 1.5x for mb6_k5 alone, after 8 s of compiling that serve all architectures. A whole network as one program
is 1.4 to 1.7x as fast, but compiles for 7 to 16 s, every architecture anew: never worth it for a population.

On a machine with other work set OMP_WAIT_POLICY=passive, else PyTorch's threads spin while they wait for each other:
torch_eager with two threads was up to 10 times slower than with one.
"""

import collections
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import chex
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxnas import codes
from jaxnas.ops import convolution, mobile, pooling
from jaxnas.ops.operation import FlaxOperation
from jaxnas.space import CellLayout
from jaxnas.supernets import Layer, Params, Supernet

ROUTES = ("torch_eager", "torch_best")
COMPILE_SETTINGS: dict[str, Any] = {"dynamic": False, "fullgraph": True}
MOST_PROGRAMS = 256
if "recompile_limit" in inspect.signature(torch.compile).parameters:
    COMPILE_SETTINGS["recompile_limit"] = MOST_PROGRAMS
else:  # before PyTorch 2.12, where this is no matter of the thread alone
    torch._dynamo.config.recompile_limit = MOST_PROGRAMS
FEWEST_REPLAYED = 3  # batches of one architecture from which on a graph pays: one runs by itself, one is captured
MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last)


class PeerScores(NamedTuple):
    """What a population scored, named as in `jaxnas.evaluation.Scores`."""

    loss: np.ndarray  # float64 [num_archs], mean cross-entropy in nats
    accuracy: np.ndarray  # float64 [num_archs], fraction of images


def make_peer_evaluator(
    supernet: Supernet, *, route: str, images_per_call: int = 256, device: str = "cpu", dtype: str = "float32"
) -> Callable[..., PeerScores]:
    """Build `evaluate(params, archs, images, labels) -> PeerScores`, called like what `make_evaluator` builds.

    Weights are converted when a call brings other params than the call before. torch_best compiles a candidate when it
    first meets it: time a call after one with the same candidates.

    Args:
      route: "torch_eager" or "torch_best", see above.
      images_per_call: images normalised together, as under the evaluator's bn_mode "batch"; the last may be fewer.
      device: as PyTorch calls it, "cpu" or "cuda".
      dtype: "float32" or "bfloat16", of weights and activations.

    Raises a ValueError for another route; from evaluate for codes that don't fit.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; choose one of {', '.join(ROUTES)}.")
    best = route == "torch_best"
    cores = os.cpu_count() or 1
    workers, threads = (cores, 1) if best and device == "cpu" else (1, cores)
    held: list[Any] = [None, None]  # the params converted last, and their peer

    def evaluate(params: Params, archs: chex.ArrayNumpy, images: chex.Array, labels: chex.Array) -> PeerScores:
        archs = codes.check(supernet.space, archs)
        if held[0] is not params:
            peer = make_peer(supernet, params, channels_last=best, compiled=best, device=device)
            held[:] = params, peer.to(getattr(torch, dtype))
        x = to_torch(images, channels_last=best, device=device).to(getattr(torch, dtype))
        y = torch.tensor(np.asarray(labels), dtype=torch.int64, device=device)
        batches = list(zip(x.split(images_per_call), y.split(images_per_call)))
        num_whole = len(images) // images_per_call
        few = num_whole if best and device != "cpu" and num_whole >= FEWEST_REPLAYED else 0  # that one graph runs

        def of_batch(code: list[int], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            logits = held[1](code, x).float()
            loss = F.cross_entropy(logits, y, reduction="sum")
            return torch.stack([loss, (logits.argmax(dim=1) == y).sum()])

        def score(code: list[int]) -> torch.Tensor:
            sums = torch.zeros(2, dtype=torch.float64, device=device if best else "cpu")  # of loss and correctness
            with torch.inference_mode() if best else torch.no_grad():
                if few:
                    here = [part.clone() for part in batches[0]]
                    replayed = Replayed(functools.partial(of_batch, code, *here), num_warm_up=1)
                for number, batch in enumerate(batches):
                    if number < few:
                        for part, whole in zip(here, batch):
                            part.copy_(whole)
                        sums += replayed()
                    else:
                        sums += of_batch(code, *batch).to(sums.device)
            return sums

        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=best),
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
        ):
            sums = torch.stack(list(pool.map(score, archs.tolist())))
        return PeerScores(*(sums.cpu().numpy() / len(images)).T)

    return evaluate


class Replayed:
    """Calls a function of no arguments, whose inputs lie where they lay before; after `num_warm_up` calls what it does
    on the GPU is captured, and from then on replayed as one graph."""

    def __init__(self, function: Callable[[], torch.Tensor], *, num_warm_up: int):
        self.function, self.num_warm_up = function, num_warm_up
        self.graph: Any = None
        self.stream = torch.cuda.Stream()

    def __call__(self) -> torch.Tensor:
        current = torch.cuda.current_stream()
        if self.graph is None:
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                if self.num_warm_up:
                    result = self.function()
                else:  # not by `torch.cuda.graph`, which collects garbage first
                    self.graph = torch.cuda.CUDAGraph()
                    self.graph.capture_begin()
                    self.result = self.function()
                    self.graph.capture_end()
            current.wait_stream(self.stream)
            if self.num_warm_up:
                self.num_warm_up -= 1
                return result
        assert self.graph is not None
        self.graph.replay()
        return self.result


def make_peer(
    supernet: Supernet, params: Params, *, channels_last: bool = False, compiled: bool = False, device: str = "cpu"
) -> nn.Module:
    """All candidates of the super-net with these weights: `peer(code, images) -> logits [num_images, num_classes]` runs
    one sub-network, `code` a list of integers, `images` as `to_torch` gives them in the same memory layout.

    With `compiled`, layers go through `torch.compile`, one program for all of a shape; the wiring stays eager.
    Raises a ValueError for a candidate that the published spaces don't have.
    """
    placement: dict[str, Any] = {"device": device, "memory_format": MEMORY_FORMATS[channels_last]}
    return Peer(supernet, params, compiled).to(**placement)


def to_torch(images: chex.Array, *, channels_last: bool = False, device: str = "cpu") -> torch.Tensor:
    """Images float [num_images, height, width, channels] as a tensor [num_images, channels, height, width]."""
    tensor = torch.tensor(np.asarray(images, np.float32), device=device)
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=MEMORY_FORMATS[channels_last])


class Peer(nn.Module):
    """Steps from images to logits: cells, and else single places."""

    def __init__(self, supernet: Supernet, params: Params, compiled: bool):
        super().__init__()
        self.steps = nn.ModuleList()
        layout = supernet.space.layout
        for step, group in itertools.groupby(supernet.layers.items(), lambda item: item[0].partition("_edge")[0]):
            places = [Place(layer, params[name], compiled) for name, layer in group]
            if isinstance(layout, CellLayout) and step not in supernet.layers:
                self.steps.append(Cell(layout.edges, places))
            else:
                self.steps += places

    def forward(self, code: Sequence[int], x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(code, x)
        return x


class Place(nn.Module):
    """The candidates of one choice, or one fixed module."""

    def __init__(self, layer: Layer, params: dict[str, Any], compiled: bool):
        super().__init__()
        self.choice = layer.choice
        self.candidates = nn.ModuleList()
        for name, operation in layer.candidates.items():
            assert isinstance(operation, FlaxOperation)  # as all of the library are
            candidate: Any = convert(operation.module, params[name])
            if compiled and not isinstance(candidate, Zero | nn.Identity):
                candidate = torch.compile(candidate, **COMPILE_SETTINGS)
            self.candidates.append(candidate)

    def forward(self, code: Sequence[int], x: torch.Tensor) -> torch.Tensor | None:
        return self.candidates[0 if self.choice is None else code[self.choice]](x)


class Cell(nn.Module):
    """Nodes as sums of their incoming edges."""

    def __init__(self, edges: Sequence[tuple[int, int]], places: Sequence[Place]):
        super().__init__()
        self.edges, self.places = edges, nn.ModuleList(places)

    def forward(self, code: Sequence[int], x: torch.Tensor) -> torch.Tensor:
        nodes = collections.defaultdict(lambda: torch.zeros_like(x), {0: x})
        for (source, target), place in zip(self.edges, self.places):
            y = place(code, nodes[source])
            if y is not None:
                nodes[target] = nodes[target] + y if target in nodes else y
        return nodes[self.edges[-1][1]]


class Zero(nn.Module):
    """No edge: nothing to compute and nothing to add."""

    def forward(self, x: torch.Tensor) -> None:
        return None


class Sum(nn.Module):
    """Two branches, added."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)


def convert(module: Any, params: dict[str, Any]) -> nn.Module:
    """Our Flax module with its parameters, in PyTorch."""
    match module:
        case pooling.Zero():
            return Zero()
        case pooling.Skip():
            return nn.Identity()
        case pooling.AveragePool():
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case pooling.Reduction():
            first, second = conv_bn(params["first"], stride=2), conv_bn(params["second"])
            shortcut = nn.Sequential(nn.AvgPool2d(2), conv(params["shortcut"]["kernel"]))
            return Sum(nn.Sequential(nn.ReLU(), *first, nn.ReLU(inplace=True), *second), shortcut)
        case mobile.Identity(stride=stride):
            return nn.Sequential(*conv_bn(params["ConvBN_0"], stride=stride)) if params else nn.Identity()
        case mobile.InvertedResidual(stride=stride):
            expand, project = conv_bn(params, "expand", "expand_bn"), conv_bn(params, "project", "project_bn")
            depthwise = conv_bn(params, "depthwise", "depthwise_bn", stride=stride)
            body = nn.Sequential(*expand, nn.ReLU(inplace=True), *depthwise, nn.ReLU(inplace=True), *project)
            same_width = params["expand"]["kernel"].shape[2] == params["project"]["kernel"].shape[3]
            return Sum(nn.Identity(), body) if stride == 1 and same_width else body
        case convolution.ConvBN(stride=stride, relu_first=True):
            return nn.Sequential(nn.ReLU(), *conv_bn(params, stride=stride))
        case convolution.Stem(stride=stride, relu=relu):
            kernel = params["Unfold_0"]["kernel"].reshape(3, 3, -1, module.channels)  # from rows, columns, channels
            layers = conv_bn({**params, "Conv_0": {"kernel": kernel}}, stride=stride)
            return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))
        case convolution.Head(head_width=head_width):
            dense = params["Classifier_0"]["Dense_0"]
            width, num_classes = dense["kernel"].shape
            classifier = with_weights(nn.Linear(width, num_classes), weight=dense["kernel"].T, bias=dense["bias"])
            layers = conv_bn(params) if head_width else [norm(params.get("BatchNorm_0"), width)]
            return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    raise ValueError(f"{type(module).__name__}: no such operation in PyTorch here, only those of the published spaces.")


def conv_bn(params: dict[str, Any], conv_name="Conv_0", norm_name="BatchNorm_0", *, stride: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation."""
    kernel = params[conv_name]["kernel"]
    return [conv(kernel, stride), norm(params.get(norm_name), kernel.shape[-1])]


def conv(kernel: chex.Array, stride: int = 1) -> nn.Module:
    """Convolution without bias, of our kernel [size, size, in, out] or, depthwise, [size, size, channels]."""
    groups = kernel.shape[-1] if kernel.ndim == 3 else 1
    kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
    size, _, fan_in, channels = kernel.shape
    module = nn.Conv2d(fan_in * groups, channels, size, stride, padding=size // 2, groups=groups, bias=False)
    return with_weights(module, weight=kernel.transpose(3, 2, 0, 1))


def norm(params: dict[str, Any] | None, channels: int) -> nn.Module:
    """Batch normalisation by the images at hand; affine where there are parameters."""
    module = nn.BatchNorm2d(channels, eps=1e-5, affine=params is not None, track_running_stats=False)
    return with_weights(module, weight=params["scale"], bias=params["bias"]) if params else module


def with_weights(module: nn.Module, **weights: chex.Array) -> nn.Module:
    """The module with these weights."""
    module.load_state_dict({name: torch.tensor(np.asarray(value, np.float32)) for name, value in weights.items()})
    return module
