"""Too little memory, or too few threads: what an error says of it, and what to change."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolchain.contracts.errors import FimbleError, StageError
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.distributed import World

MAIN, GPU, THREADS = "main memory", "the GPU's memory", "the system's limit on threads"
TOO_LITTLE = (
    *("allocate memory", "not enough memory", "out of memory", "bad_alloc", "bad allocation", "os error 12"),
    *("malloc of size", "realloc of size", "ALLOC_FAILED", "Invalid buffer size", "failed to map segment"),
)
"""PyTorch and its devices, Rust, Arrow, C++ and the loader of libraries have words for it, and no class in common."""
OF_A_GPU = ("CUDA", "CUBLAS", "CUDNN", "NCCL", "HIP", "XPU", "MPS", "Invalid buffer size")
NO_THREAD = "start new thread"
FREE_SOME = "End other programs or raise the limit (ulimit -v), and run again."


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, each once: what is raised again while its effect is handled closes a circle."""
    seen: list[BaseException] = []
    while error is not None and not any(error is one for one in seen):
        seen.append(error)
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def lacking(error: BaseException) -> str | None:
    """What an error says that there is too little of, be it only in its causes; None when it says something else."""
    for cause in causes(error):
        if isinstance(cause, FimbleError):
            return None
        words = str(cause)
        if NO_THREAD in words:
            return THREADS
        if any(word in words for word in TOO_LITTLE):
            return GPU if any(word in words for word in OF_A_GPU) else MAIN
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return MAIN
    return None


@contextmanager
def room_for(what: str, next_step: str) -> Iterator[None]:
    """Raise StageError with `next_step` where there is too little memory for what happens meanwhile, called `what`."""
    try:
        yield
    except Exception as error:  # libraries have no class in common for it
        if lack := lacking(error):
            raise too_little(lack, what, next_step) from None
        raise


def too_little(lack: str, what: str, next_step: str) -> StageError:
    """The error that tells it. No setting of a training changes how many threads its libraries start."""
    if lack == THREADS:
        next_step = "Raise it (ulimit -u), or that on memory, of which each thread takes some (ulimit -v)."
    return StageError(f"{lack} does not suffice for {what}", next_step)


def fits_the_base(settings: TrainSettings) -> str:
    """What to change where not even the weights and what the optimizer knows of them have room."""
    fits = {"full": "--method lora", "lora": "--method qlora", "qlora": "a smaller base"}[settings.method]
    return f"Use {fits}; fimble plan tells what a training needs."


def fits_a_step(settings: TrainSettings, world: World) -> str:
    """What to change, the cheapest first: nothing that changes the result while there is such a thing."""
    if settings.batch_size > 1:
        size, passes = settings.batch_size // 2, settings.gradient_accumulation
        same = passes * settings.batch_size / size
        fits = f"--batch-size {size} --gradient-accumulation {round(same)}"
    elif not settings.gradient_checkpointing:
        fits = "--gradient-checkpointing"
    elif settings.method == "lora":
        fits = "--method qlora"
    elif settings.method == "full" and world.size == 1:
        fits = "--method lora, or --launcher torchrun with several GPUs"
    elif settings.sequence_length > 512:
        fits = f"--sequence-length {settings.sequence_length // 2}"
    else:
        fits = "a smaller base"
    return f"Use {fits}; fimble plan tells what a training needs."
