"""A reader for decode workers that misbehaves where the file's name says so, with real native code, and reads the clip otherwise."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path

from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.clip import read_clip as honest_read_clip
from reelscribe.pipeline.video.types import DecodeLimits

LEAKED: list[bytearray] = []


def read_clip(request: ClipRequest, limits: DecodeLimits) -> Clip:
    match Path(request.uri).name.partition("-")[0]:
        case "spin":  # inside C, with the interpreter's lock held, never looking at signals
            pow(3, 10**10)
        case "sleep":  # a C function that keeps the lock
            ctypes.PyDLL(None).sleep(3600)
        case "abort":
            ctypes.CDLL(None).abort()
        case "segfault":
            ctypes.string_at(8)
        case "allocate":  # Python's own allocation
            greedy = []
            while True:
                greedy.append(bytearray(32 << 20))
        case "malloc":  # a native library that does not look at what malloc returns
            libc = ctypes.CDLL(None)
            libc.malloc.restype, libc.memset.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
            while True:
                libc.memset(libc.malloc(ctypes.c_size_t(32 << 20)), 1, 32 << 20)
        case "killed":
            os.kill(os.getpid(), 9)
        case "once":  # as when the system, short of memory, picks this process
            seen = Path(f"{request.uri}.seen")
            if not seen.exists():
                seen.touch()
                os.kill(os.getpid(), 9)
        case "exit":
            os._exit(3)
        case "defect":
            raise KeyError("a defect of the reader")
        case "leak":  # and tell which process did it
            LEAKED.append(bytearray(24 << 20))
            clip = honest_read_clip(replace(request, uri=request.uri.replace("leak-", "")), limits)
            return replace(clip, digest=str(os.getpid()))
        case "chatter":
            os.write(2, b"native library: something went \x1b[31mwrong\n")
            ctypes.CDLL(None).abort()
    return honest_read_clip(request, limits)
