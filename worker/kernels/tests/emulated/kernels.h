#pragma once

#include <map>
#include <string>

struct Index;

// Runs a kernel on a grid of blocks of `threads` threads.
using Kernel = void (*)(Index grid, unsigned threads, void** arguments);

const std::map<std::string, Kernel>& kernels();
