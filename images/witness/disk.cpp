// Disk: opening, the workers, and the functions for control. The expected content of a block:
// disk_check.cpp.
#include "disk.hpp"

#include "errors.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

namespace witness {
namespace {

constexpr std::size_t chunk_blocks = 64;  // 256 KiB: reads of verify, writes of fill
constexpr std::uint64_t appear_ns_max =
    10 * ns_per_s;  // a SCSI disk is found some time after its bus
constexpr std::uint64_t appear_look_ns = 10 * ns_per_ms;
constexpr std::uint64_t depth_max = 64;

std::uint64_t hash(const std::string& text) {
    std::uint64_t value = 0;
    for (const char c : text) value = mix(value ^ static_cast<unsigned char>(c));
    return value;
}

}  // namespace

DirectBuffer::DirectBuffer(std::size_t bytes)
    : data_(static_cast<std::byte*>(std::aligned_alloc(block_bytes, bytes))), size_(bytes) {
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, bytes);
}

DirectBuffer::~DirectBuffer() { std::free(data_); }

Disk::Disk(DiskSettings settings)
    : rate(settings.rate), read_rate(settings.read_rate), settings_(std::move(settings)) {
    if (settings_.depth == 0) settings_.depth = 1;
    if (settings_.depth > depth_max) settings_.depth = depth_max;
}

Disk::~Disk() {
    if (fd_ >= 0) close(fd_);
}

bool Disk::open() {
    const std::string path = "/dev/" + settings_.name;
    const std::uint64_t give_up_ns = now_ns() + appear_ns_max;
    while (true) {
        fd_ = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd_ >= 0 || now_ns() > give_up_ns) break;
        sleep_until_ns(now_ns() + appear_look_ns);
    }
    if (fd_ < 0 || ioctl(fd_, BLKGETSIZE64, &disk_bytes_) != 0) {
        errors().add(Kind::setup, path + " cannot be opened: " + std::strerror(errno));
        return false;
    }
    std::string serial;
    std::ifstream("/sys/block/" + settings_.name + "/serial") >> serial;
    identity_ = hash(serial.empty() ? settings_.name : serial);
    const std::uint64_t begin = settings_.offset_mib << 20U;
    std::uint64_t span = settings_.span_mib << 20U;
    if (begin >= disk_bytes_)
        span = 0;
    else if (span > disk_bytes_ - begin)
        span = disk_bytes_ - begin;
    blocks_.resize(span / block_bytes);
    if (blocks_.size() < settings_.depth) {
        errors().add(Kind::setup, path + " is too small for the span that was asked for");
        return false;
    }
    if (settings_.scan) (void)verify();  // what is wrong is counted there
    return true;
}

void Disk::run(std::size_t index) {
    const DirectBuffer buffer(block_bytes);
    Pace pace;
    std::uint64_t random = mix(now_ns() + index);
    std::uint64_t read_share = 0;  // reads are spread evenly between the writes
    std::uint64_t until_flush = settings_.flush_every;
    while (true) {
        const std::uint64_t reads = read_rate;
        const std::uint64_t both = rate + reads;
        // Each worker does its part of the rate, rounded up, so that a small rate does not become
        // 0.
        if (pace.wait((both + settings_.depth - 1) / settings_.depth, 1) == 0) continue;
        random = mix(random ^ now_ns());  // the clock: two running copies must not act as one
        read_share += reads;
        enter();
        if (read_share >= both) {
            read_share -= both;
            read_one(index, random, buffer.bytes());
        } else {
            write_one(index, random, buffer.bytes());
            if (settings_.flush_every != 0 && --until_flush == 0) {
                until_flush = settings_.flush_every;
                flush();
            }
        }
        leave();
    }
}

void Disk::flush() {
    const std::uint64_t begin = now_ns();
    const int result = fdatasync(fd_);
    flush_latency.add((now_ns() - begin) / 1000);
    ++flushes;
    if (result != 0) io_error("flush", 0, -1);
}

std::uint64_t Disk::pick(std::size_t worker, std::uint64_t random, bool hot) const {
    const std::uint64_t mine = blocks_.size() / settings_.depth;  // the remainder is never written
    const std::uint64_t hot_part = mine / 16 > 0 ? mine / 16 : 1;
    const bool in_hot_part = hot && (random >> 32U) % 10 != 0;
    return (random & 0xffffffffU) % (in_hot_part ? hot_part : mine) * settings_.depth + worker;
}

void Disk::write_one(std::size_t worker, std::uint64_t random, std::span<std::byte> buffer) {
    const std::uint64_t number = pick(worker, random, settings_.hot);
    Block& block = blocks_[number];
    const std::uint32_t sequence = ++sequence_;
    compose(buffer, number, sequence);
    bool misplaced = false;
    const Version version = version_of(buffer, number, misplaced);
    const std::uint64_t begin = now_ns();
    const long result =
        pwrite(fd_, buffer.data(), block_bytes,
               static_cast<off_t>((settings_.offset_mib << 20U) + number * block_bytes));
    write_latency.add((now_ns() - begin) / 1000);
    ++writes;
    if (result != static_cast<long>(block_bytes)) {
        block.known = false;  // it may hold either version now
        io_error("write", number, result);
        return;
    }
    block = {.now = version, .before = block.now, .known = true, .before_known = block.known};
}

void Disk::read_one(std::size_t worker, std::uint64_t random, std::span<std::byte> buffer) {
    const std::uint64_t number = pick(worker, random, false);
    const long result =
        pread(fd_, buffer.data(), block_bytes,
              static_cast<off_t>((settings_.offset_mib << 20U) + number * block_bytes));
    if (result != static_cast<long>(block_bytes)) {
        io_error("read", number, result);
        return;
    }
    (void)check(buffer, number);  // counted there
}

Disk::Verified Disk::verify() {
    const DirectBuffer buffer(chunk_blocks * block_bytes);
    Verified verified;
    freeze();
    for (std::uint64_t first = 0; first < blocks_.size(); first += chunk_blocks) {
        const std::uint64_t count = std::min<std::uint64_t>(chunk_blocks, blocks_.size() - first);
        const auto at = static_cast<off_t>((settings_.offset_mib << 20U) + first * block_bytes);
        const long result = pread(fd_, buffer.bytes().data(), count * block_bytes, at);
        if (result != static_cast<long>(count * block_bytes)) {
            io_error("read", first, result);
            verified.wrong += count;
            continue;
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            if (!check(buffer.block(i), first + i)) ++verified.wrong;
            if (blocks_[first + i].now.sequence != 0) ++verified.written;
            ++verified.blocks;
        }
    }
    thaw();
    return verified;
}

std::string Disk::refuse_range(std::uint64_t offset, std::uint64_t length) const {
    if (offset % block_bytes != 0 || length % block_bytes != 0 || length == 0)
        return "offset and length must be whole blocks of 4096 bytes";
    if (offset > disk_bytes_ || length > disk_bytes_ - offset)
        return "the range ends behind the disk of " + std::to_string(disk_bytes_) + " bytes";
    return {};
}

std::string Disk::fill(std::uint64_t offset, std::uint64_t length, std::uint64_t seed) {
    if (std::string refusal = refuse_range(offset, length); !refusal.empty()) return refusal;
    const DirectBuffer buffer(chunk_blocks * block_bytes);
    std::string failure;
    freeze();
    for (std::uint64_t done = 0; done < length && failure.empty();) {
        const std::uint64_t count = std::min<std::uint64_t>(buffer.bytes().size(), length - done);
        auto* words = reinterpret_cast<std::uint64_t*>(buffer.bytes().data());
        for (std::size_t i = 0; i < count / sizeof(std::uint64_t) && seed != 0; ++i)
            words[i] = content_word(mix(seed), (offset + done) / sizeof(std::uint64_t) + i);
        const long result = pwrite(fd_, words, count, static_cast<off_t>(offset + done));
        if (result != static_cast<long>(count))
            failure = std::string("write failed: ") + std::strerror(errno);
        done += count;
    }
    forget(offset, length);
    thaw();
    return failure;
}

std::string Disk::discard(std::uint64_t offset, std::uint64_t length) {
    if (std::string refusal = refuse_range(offset, length); !refusal.empty()) return refusal;
    const std::uint64_t range[2] = {offset, length};
    freeze();
    const int result = ioctl(fd_, BLKDISCARD, range);
    std::string failure = result == 0 ? "" : std::string("discard failed: ") + std::strerror(errno);
    forget(offset, length);
    thaw();
    return failure;
}

void Disk::forget(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t begin = settings_.offset_mib << 20U;
    for (std::uint64_t at = offset; at < offset + length; at += block_bytes) {
        if (at < begin || (at - begin) / block_bytes >= blocks_.size()) continue;
        blocks_[(at - begin) / block_bytes] = {};
    }
}

void Disk::freeze() {
    std::unique_lock lock(gate_);
    ++frozen_;
    gate_changed_.wait(lock, [this] { return busy_ == 0; });
}

void Disk::thaw() {
    const std::scoped_lock lock(gate_);
    if (frozen_ > 0) --frozen_;
    gate_changed_.notify_all();
}

void Disk::enter() {
    std::unique_lock lock(gate_);
    gate_changed_.wait(lock, [this] { return frozen_ == 0; });
    ++busy_;
}

void Disk::leave() {
    const std::scoped_lock lock(gate_);
    --busy_;
    if (frozen_ > 0) gate_changed_.notify_all();
}

void Disk::io_error(const char* doing, std::uint64_t number, long result) const {
    const std::string why = result < 0 ? std::strerror(errno) : "short by some bytes";
    errors().add(Kind::disk_io, settings_.name + ": " + doing + " of block " +
                                    std::to_string(number) + " failed: " + why);
}

}  // namespace witness
