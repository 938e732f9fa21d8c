// What the trainer calls of NCCL, between processes and threads of one machine: a socket for every pair, in which every
// message is over when its group ends.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "streams.h"

namespace {

constexpr int SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, FLOAT32 = 7;

struct UniqueId {
    char text[128];
};

struct Message {
    bool sends;
    char* at;
    size_t bytes;
    int socket;
};

struct Communicator {
    int rank, size;
    // To every other rank, and to itself both ends of a pair.
    std::vector<int> sockets;
    int own_end;
};

thread_local std::vector<Message> group;
thread_local bool grouped = false;

sockaddr_un address(const UniqueId& id, int rank, socklen_t* length) {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    // In the abstract names, which end with the process.
    const std::string name = std::string(id.text) + "-" + std::to_string(rank);
    std::memcpy(at.sun_path + 1, name.data(), name.size());
    *length = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    return at;
}

bool carry(const Message& m) {
    for (size_t done = 0; done < m.bytes;) {
        const ssize_t n = m.sends ? send(m.socket, m.at + done, m.bytes - done, MSG_NOSIGNAL)
                                  : recv(m.socket, m.at + done, m.bytes - done, 0);
        if (n <= 0) return false;
        done += size_t(n);
    }
    return true;
}

int run(const std::vector<Message>& messages) {
    std::atomic<bool> fine = true;
    std::vector<std::thread> threads;
    for (const Message& m : messages) threads.emplace_back([&fine, &m] { if (!carry(m)) fine = false; });
    for (std::thread& thread : threads) thread.join();
    return fine ? SUCCESS : SYSTEM_ERROR;
}

int queue(bool sends, const void* at, size_t count, int type, int peer, Communicator* comm) {
    if (type != FLOAT32 || peer < 0 || peer >= comm->size) return INVALID_ARGUMENT;
    const int socket = !sends && peer == comm->rank ? comm->own_end : comm->sockets[size_t(peer)];
    group.push_back({sends, static_cast<char*>(const_cast<void*>(at)), count * 4, socket});
    if (grouped) return SUCCESS;
    const std::vector<Message> messages = std::move(group);
    group.clear();
    return run(messages);
}

}  // namespace

extern "C" {

int ncclGetUniqueId(UniqueId* id) {
    std::random_device random;
    std::memset(id, 0, sizeof *id);
    std::snprintf(id->text, sizeof id->text, "qlora-nccl-%08x%08x", random(), random());
    return SUCCESS;
}

int ncclCommInitRank(Communicator** out, int size, UniqueId id, int rank) {
    if (rank < 0 || rank >= size) return INVALID_ARGUMENT;
    auto* comm = new Communicator{rank, size, std::vector<int>(size_t(size), -1), -1};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return SYSTEM_ERROR;
    comm->sockets[size_t(rank)] = pair[0];
    comm->own_end = pair[1];
    socklen_t length;
    sockaddr_un own = address(id, rank, &length);
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, reinterpret_cast<sockaddr*>(&own), length) != 0 || listen(listener, size) != 0) return SYSTEM_ERROR;
    // Those below are connected to, those above connect and say who they are.
    for (int peer = 0; peer < rank; ++peer) {
        sockaddr_un at = address(id, peer, &length);
        int made;
        do {
            made = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(made, reinterpret_cast<sockaddr*>(&at), length) == 0) break;
            close(made);
            made = -1;
            usleep(1000);
        } while (true);
        if (!carry({true, reinterpret_cast<char*>(&rank), sizeof rank, made})) return SYSTEM_ERROR;
        comm->sockets[size_t(peer)] = made;
    }
    for (int peer = rank + 1; peer < size; ++peer) {
        const int made = accept(listener, nullptr, nullptr);
        int who = -1;
        if (!carry({false, reinterpret_cast<char*>(&who), sizeof who, made}) || who <= rank || who >= size) return SYSTEM_ERROR;
        comm->sockets[size_t(who)] = made;
    }
    close(listener);
    *out = comm;
    return SUCCESS;
}

int ncclCommAbort(Communicator* comm) {
    for (const int socket : comm->sockets) close(socket);
    close(comm->own_end);
    delete comm;
    return SUCCESS;
}

const char* ncclGetErrorString(int status) {
    return status == SYSTEM_ERROR ? "unhandled system error" : "invalid argument";
}

int ncclGroupStart() { return grouped = true, SUCCESS; }
int ncclGroupEnd() {
    grouped = false;
    const std::vector<Message> messages = std::move(group);
    group.clear();
    return run(messages);
}
int ncclSend(const void* from, size_t count, int type, int peer, Communicator* comm, void* stream) {
    emulator::use(*emulator::of(stream), "ncclSend", {emulator::reads(from)});
    return queue(true, from, count, type, peer, comm);
}
int ncclRecv(void* to, size_t count, int type, int peer, Communicator* comm, void* stream) {
    emulator::use(*emulator::of(stream), "ncclRecv", {emulator::writes(to)});
    return queue(false, to, count, type, peer, comm);
}
int ncclAllGather(const void* from, void* to, size_t count, int type, Communicator* comm, void* stream) {
    ncclGroupStart();
    for (int peer = 0; peer < comm->size; ++peer) {
        ncclSend(from, count, type, peer, comm, stream);
        ncclRecv(static_cast<char*>(to) + size_t(peer) * count * 4, count, type, peer, comm, stream);
    }
    return ncclGroupEnd();
}
}
