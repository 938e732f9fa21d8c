// Streams: work in its order, as late as events allow, and whether whoever uses memory has waited for those who used it
// before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace emulator {

struct Stream;

// For every stream, how much of its work is over.
using Clock = std::map<const Stream*, uint64_t>;

// A stream and the work that it still owes: all is done at once, but for a stream that began by waiting for another one.
struct Stream {
    bool used = false, late = false;
    size_t done = 0;
    std::vector<std::function<void()>> work;
    unsigned number = 0;
    uint64_t count = 0, host_seen = 0;
    Clock seen;

    void add(std::function<void()> more);
    void catch_up(size_t until);
    void catch_up() { catch_up(work.size()); }
};

Stream* new_stream();
// The one that a handle of the driver means.
Stream* of(void* stream);

// A point on a stream.
struct Event {
    Stream* stream = nullptr;
    size_t until = 0;
    Clock seen;
};
void record(Event& event, Stream& stream);
void wait(Stream& stream, const Event& event);
// The program has waited for all work of the stream.
void synchronize(Stream& stream);

// An address within memory that some work reads or writes.
struct Use {
    const void* at;
    bool writes;
};
inline Use reads(const void* at) { return {at, false}; }
inline Use writes(const void* at) { return {at, true}; }

// `name` is given to the stream, and uses memory. Ends the program where it would not come behind those who wrote it, or
// write it before those who read it are done. Memory is looked at as it was allocated, not byte by byte.
void use(Stream& stream, const char* name, const std::vector<Use>& uses);

// Memory that is there from now on, first for work of the stream; none where the program has waited for it.
void allocated(const void* at, size_t bytes, Stream* stream);
// Its end, in the order of the stream's work.
void released(const void* at, Stream* stream);

}  // namespace emulator
