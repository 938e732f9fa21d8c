// Stands before the one of CUDA.
#include "emulator.h"
