"""Calls that an H100's driver refuses, made to the emulated one: refusals.py FOLDER, which `build.sh` has filled."""

import ctypes
import sys

SUCCESS, INVALID_VALUE, NOT_FOUND = 0, 1, 500
MAX_DYNAMIC_SHARED = 8
ONE = (1, 1, 1)

cuda = ctypes.CDLL(f"{sys.argv[1]}/libcuda.so.1")
for function in (cuda.cuMemAlloc_v2, cuda.cuMemAllocAsync):
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p][: 3 if function is cuda.cuMemAllocAsync else 2]
cuda.cuModuleGetFunction.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
cuda.cuFuncSetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
cuda.cuLaunchKernel.argtypes = [ctypes.c_void_p] + [ctypes.c_uint] * 7 + [ctypes.c_void_p] * 3


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found}, not {wanted}")


def function(module, name):
    place = ctypes.c_void_p()
    expect(name, cuda.cuModuleGetFunction(ctypes.byref(place), module, name.encode()), SUCCESS)
    return place


def launch(kernel, grid=ONE, block=(32, 1, 1), shared=0):
    # `add_f32` of no numbers: whatever is launched does nothing.
    values = [ctypes.c_uint64(0), ctypes.c_uint64(0), ctypes.c_long(0), ctypes.c_uint64(0)]
    arguments = (ctypes.c_void_p * 4)(*[ctypes.addressof(v) for v in values])
    return cuda.cuLaunchKernel(kernel, *grid, *block, shared, None, arguments, None)


place = ctypes.c_void_p()
expect("no bytes", cuda.cuMemAlloc_v2(ctypes.byref(place), 0), INVALID_VALUE)
expect("no bytes of a stream", cuda.cuMemAllocAsync(ctypes.byref(place), 0, None), INVALID_VALUE)

modules = [ctypes.c_void_p(), ctypes.c_void_p()]
for module in modules:
    expect("a module", cuda.cuModuleLoadData(ctypes.byref(module), None), SUCCESS)
expect("no such kernel", cuda.cuModuleGetFunction(ctypes.byref(place), modules[0], b"cast_bf16_f32"), NOT_FOUND)
text = ctypes.c_char_p()
cuda.cuGetErrorString(NOT_FOUND, ctypes.byref(text))
expect("its name in the error", b"cast_bf16_f32" in text.value, True)

kernel, other = (function(module, "add_f32") for module in modules)
for refused in [
    {"grid": (0, 1, 1)}, {"grid": (1, 0, 1)}, {"grid": (1 << 31, 1, 1)}, {"grid": (1, 65536, 1)}, {"grid": (1, 1, 65536)},
    {"block": (0, 1, 1)}, {"block": (1025, 1, 1)}, {"block": (512, 4, 1)}, {"block": (1, 1, 65)},
    {"shared": (48 << 10) + 1},
]:
    expect(refused, launch(kernel, **refused), INVALID_VALUE)
for taken in [{}, {"grid": (3, 2, 2)}, {"block": (1024, 1, 1)}, {"shared": 48 << 10}]:
    expect(taken, launch(kernel, **taken), SUCCESS)

expect("more than there is", cuda.cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, (227 << 10) + 1), INVALID_VALUE)
expect("asking for more", cuda.cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, 100_000), SUCCESS)
expect("what was asked for", launch(kernel, shared=100_000), SUCCESS)
expect("more than that", launch(kernel, shared=100_001), INVALID_VALUE)
expect("what another function was given", launch(other, shared=100_000), INVALID_VALUE)
