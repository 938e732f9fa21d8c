#pragma once

#include <functional>
#include <map>
#include <string>

#include "streams.h"

namespace emulator {
struct Launch;
}

// A kernel with its arguments, to be run on a grid of blocks, and the memory that these name: what is behind a pointer to
// `const` is read, the rest may be written. Pointers within other arguments are not looked at.
struct Work {
    std::function<void()> run;
    std::vector<emulator::Use> uses;
};
using Kernel = Work (*)(const emulator::Launch& what, void** arguments);

const std::map<std::string, Kernel>& kernels();
