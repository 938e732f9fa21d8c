#pragma once

#include <functional>
#include <map>
#include <string>

struct Index;

// A kernel with its arguments, to be run on a grid of blocks of `threads` threads.
using Kernel = std::function<void()> (*)(Index grid, unsigned threads, void** arguments);

const std::map<std::string, Kernel>& kernels();
