#include "streams.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

namespace emulator {

namespace {

// Some work of a stream.
struct Point {
    const Stream* stream = nullptr;
    uint64_t count = 0;
    std::string name;
};

struct Memory {
    size_t bytes;
    Point written;
    // One a stream, the last.
    std::vector<Point> read;
};

std::mutex lock;
std::map<const char*, Memory> memory;
// What the program has waited for, and how often.
Clock host;
uint64_t host_waits = 0;
unsigned streams = 0;

void merge(Clock& into, const Clock& from) {
    for (const auto& [stream, count] : from) {
        uint64_t& seen = into[stream];
        seen = std::max(seen, count);
    }
}

Memory* around(const void* at) {
    auto found = memory.upper_bound(static_cast<const char*>(at));
    if (found == memory.begin()) return nullptr;
    --found;
    return static_cast<const char*>(at) < found->first + found->second.bytes ? &found->second : nullptr;
}

void check(const Stream& stream, const char* name, const char* does, const Point& earlier, const char* did) {
    if (earlier.stream == nullptr || earlier.stream == &stream) return;
    const auto seen = stream.seen.find(earlier.stream);
    if (seen != stream.seen.end() && seen->second >= earlier.count) return;
    std::fprintf(stderr, "emulated GPU: %s on stream %u %s memory that %s on stream %u %s, and does not wait for it\n",
                 name, stream.number, does, earlier.name.c_str(), earlier.stream->number, did);
    std::abort();
}

void use_one(const Stream& stream, const char* name, const Use& one) {
    Memory* const used = around(one.at);
    if (used == nullptr) return;
    check(stream, name, one.writes ? "writes" : "reads", used->written, "writes");
    const Point here{&stream, stream.count, name};
    if (!one.writes) {
        const auto mine = [&](const Point& point) { return point.stream == &stream; };
        std::erase_if(used->read, mine);
        used->read.push_back(here);
        return;
    }
    for (const Point& reader : used->read) check(stream, name, "writes", reader, "reads");
    used->read.clear();
    used->written = here;
}

// The stream's next piece of work. Whoever gives it may have waited for others.
void next(Stream& stream) {
    if (stream.host_seen != host_waits) merge(stream.seen, host);
    stream.host_seen = host_waits;
    stream.seen[&stream] = ++stream.count;
}

}  // namespace

void Stream::add(std::function<void()> more) {
    used = true;
    if (!late) return more();
    work.push_back(std::move(more));
}

void Stream::catch_up(size_t until) {
    for (; done < until; ++done) {
        work[done]();
        work[done] = nullptr;
    }
}

Stream* new_stream() {
    const std::lock_guard<std::mutex> held(lock);
    auto* stream = new Stream;
    stream->number = ++streams;
    return stream;
}

Stream* of(void* stream) {
    static Stream by_default;
    return stream == nullptr ? &by_default : static_cast<Stream*>(stream);
}

void record(Event& event, Stream& stream) {
    const std::lock_guard<std::mutex> held(lock);
    event = {&stream, stream.work.size(), stream.seen};
}

void wait(Stream& stream, const Event& event) {
    if (!stream.used) stream.late = true;
    stream.used = true;
    if (event.stream == nullptr) return;
    event.stream->catch_up(event.until);
    const std::lock_guard<std::mutex> held(lock);
    merge(stream.seen, event.seen);
}

void synchronize(Stream& stream) {
    stream.catch_up();
    const std::lock_guard<std::mutex> held(lock);
    merge(host, stream.seen);
    ++host_waits;
}

void use(Stream& stream, const char* name, const std::vector<Use>& uses) {
    const std::lock_guard<std::mutex> held(lock);
    next(stream);
    for (const Use& one : uses) use_one(stream, name, one);
}

void allocated(const void* at, size_t bytes, Stream* stream) {
    const std::lock_guard<std::mutex> held(lock);
    Memory& made = memory[static_cast<const char*>(at)] = {bytes, {}, {}};
    if (stream == nullptr) return;
    next(*stream);
    made.written = {stream, stream->count, "its allocation"};
}

void released(const void* at, Stream* stream) {
    const std::lock_guard<std::mutex> held(lock);
    if (stream != nullptr) {
        next(*stream);
        use_one(*stream, "its release", writes(at));
    }
    memory.erase(static_cast<const char*>(at));
}

}  // namespace emulator
