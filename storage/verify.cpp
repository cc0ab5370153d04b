#include "storage/verify.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <optional>

#include "core/sync.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

constexpr std::uint64_t block_bytes = limits::bitmap_granularity_bytes;

// Memory counted for a piece of zeroes, so that the number of pieces under way is bounded too.
constexpr std::size_t placeholder_bytes = 512;

std::uint64_t block_hash(std::span<std::byte const> block) {
    if (is_zero(block)) return 0;
    std::uint64_t const hash = XXH3_64bits(block.data(), block.size());
    return hash == 0 ? 1 : hash;  // 0 is the word for zeroes
}

std::size_t table_bytes(std::uint64_t disk_bytes) {
    return std::max<std::size_t>(block_count(disk_bytes), 1) * sizeof(XXH64_hash_t);
}

}  // namespace

std::size_t block_count(std::uint64_t bytes) {
    return static_cast<std::size_t>((bytes + block_bytes - 1) / block_bytes);
}

void hash_blocks(std::span<std::byte const> bytes, std::span<std::uint64_t> hashes) {
    assert(hashes.size() == block_count(bytes.size()));
    for (auto& hash : hashes) {
        auto const block = bytes.first(std::min<std::size_t>(block_bytes, bytes.size()));
        hash = block_hash(block);
        bytes = bytes.subspan(block.size());
    }
}

void CombinedHash::Free::operator()(XXH3_state_s* state) const { (void)XXH3_freeState(state); }

CombinedHash::CombinedHash() : state_(XXH3_createState()) {
    if (!state_) throw std::bad_alloc();
    (void)XXH3_128bits_reset(state_.get());  // fails only without a state
}

void CombinedHash::add(std::span<std::uint64_t const> hashes) {
    (void)XXH3_128bits_update(state_.get(), hashes.data(), hashes.size_bytes());
}

std::string CombinedHash::text() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    std::string digits;
    for (unsigned char const byte : canonical.digest) digits += fmt::format("{:02x}", byte);
    return digits;
}

Result<std::shared_ptr<BlockTable>> BlockTable::create(std::string const& path,
                                                       std::uint64_t disk_bytes) {
    core::Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) return fail_errno(errno, "cannot make {}", path);
    auto const bytes = table_bytes(disk_bytes);
    // A write to a mapped hole of a full file system is a SIGBUS: so the space is taken now.
    if (int const error = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)); error != 0) {
        (void)unlink(path.c_str());
        return core::fail_os(Errc::refused, error,
                             fmt::format("--verify needs {} KiB for its table of hashes, {}: make "
                                         "room there, or migrate without --verify",
                                         bytes / 1024 + 1, path));
    }
    return map(std::move(file), disk_bytes);
}

Result<std::shared_ptr<BlockTable>> BlockTable::open(std::string const& path,
                                                     std::uint64_t disk_bytes) {
    core::Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file) return fail_errno(errno, "cannot open {}", path);
    struct stat status{};
    if (fstat(file.get(), &status) < 0) return fail_errno(errno, "cannot look at {}", path);
    if (static_cast<std::size_t>(status.st_size) != table_bytes(disk_bytes)) {
        return core::fail(Errc::invalid, "{} is not of a disk of {} bytes", path, disk_bytes);
    }
    return map(std::move(file), disk_bytes);
}

Result<std::shared_ptr<BlockTable>> BlockTable::map(core::Fd file, std::uint64_t disk_bytes) {
    auto const bytes = table_bytes(disk_bytes);
    void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (mapped == MAP_FAILED) return fail_errno(errno, "cannot map {} bytes", bytes);
    std::span<std::uint64_t> const hashes(static_cast<std::uint64_t*>(mapped),
                                          bytes / sizeof(std::uint64_t));
    return std::shared_ptr<BlockTable>(new BlockTable(std::move(file), hashes, disk_bytes));
}

BlockTable::~BlockTable() { (void)munmap(hashes_.data(), hashes_.size_bytes()); }

std::span<std::uint64_t> BlockTable::part(std::uint64_t offset, std::uint64_t length) const {
    assert(offset % block_bytes == 0 && offset + length <= disk_bytes_);
    assert(length % block_bytes == 0 || offset + length == disk_bytes_);
    return hashes_.subspan(static_cast<std::size_t>(offset / block_bytes), block_count(length));
}

void BlockTable::record(std::uint64_t offset, std::span<std::byte const> bytes) {
    hash_blocks(bytes, part(offset, bytes.size()));
}

void BlockTable::record_zeroes(std::uint64_t offset, std::uint64_t length) {
    std::ranges::fill(part(offset, length), 0);
}

std::span<std::uint64_t const> BlockTable::blocks(Extent range) const {
    return part(range.offset, range.length);
}

std::string BlockTable::combined(std::vector<Extent> const& ranges) const {
    CombinedHash hash;
    for (auto const& range : ranges) hash.add(blocks(range));
    return hash.text();
}

Task<Result<std::string>> BlockTable::digest(core::Loop& loop) const {
    CombinedHash hash;
    auto rest = std::span<std::uint64_t const>(hashes_).first(block_count(disk_bytes_));
    while (!rest.empty()) {
        auto const turn = rest.first(std::min(rest.size(), limits::digest_turn_blocks));
        hash.add(turn);
        rest = rest.subspan(turn.size());
        CO_TRY_VOID(co_await core::sleep_for(loop, core::milliseconds(0)));
    }
    co_return hash.text();
}

std::vector<Extent> HashPlan::next() {
    std::vector<Extent> ranges;
    std::uint64_t room = limits::hash_request_bytes_max;
    while (index_ < extents_.size() && room > 0 &&
           ranges.size() < limits::hash_request_ranges_max) {
        Extent& extent = extents_[index_];
        std::uint64_t const length = std::min(room, extent.length);
        if (length > 0) ranges.push_back({extent.offset, length, false});
        room -= std::min(room, (length + block_bytes - 1) / block_bytes * block_bytes);
        extent.offset += length;
        extent.length -= length;
        if (extent.length == 0) ++index_;
    }
    return ranges;
}

Result<> check_ranges(std::vector<Extent> const& ranges, std::uint64_t disk_bytes) {
    if (ranges.empty() || ranges.size() > limits::hash_request_ranges_max) {
        return fail(Errc::invalid, "{} ranges are none or too many to hash at once", ranges.size());
    }
    std::uint64_t sum = 0;
    std::uint64_t end = 0;
    for (auto const& range : ranges) {
        bool const inside = range.offset >= end && range.offset < disk_bytes && range.length > 0 &&
                            range.length <= disk_bytes - range.offset;
        bool const whole = inside && range.offset % block_bytes == 0 &&
                           (range.length % block_bytes == 0 || range.end() == disk_bytes);
        if (!whole) {
            return fail(Errc::invalid,
                        "{} bytes at {} are not blocks of a disk of {}, or not in order",
                        range.length, range.offset, disk_bytes);
        }
        end = range.end();
        sum += range.length;
        if (sum > limits::hash_request_bytes_max) {
            return fail(Errc::invalid, "{} bytes are too many to hash at once", sum);
        }
    }
    return {};
}

Halves halves(std::vector<Extent> const& ranges) {
    std::size_t count = 0;
    for (auto const& range : ranges) count += block_count(range.length);
    std::uint64_t room = (count + 1) / 2 * block_bytes;
    Halves made;
    for (auto const& range : ranges) {
        std::uint64_t const length = std::min(room, range.length);
        if (length > 0) made.first.push_back({range.offset, length, false});
        if (length < range.length) {
            made.second.push_back({range.offset + length, range.length - length, false});
        }
        room -= std::min(room, block_count(range.length) * block_bytes);
    }
    return made;
}

namespace {

// What the pieces of one pass share.
struct Pass {
    Reader& reader;
    HashSink& sink;
    core::LinkedStop stop;
    Deadline deadline;
    std::optional<Error> error;
};

Task<Result<>> hash_piece(Pass& pass, Extent piece, Buffer buffer) {
    std::vector<std::uint64_t> hashes(block_count(piece.length));
    if (!piece.zero) {
        auto const length = static_cast<std::size_t>(piece.length);
        CO_TRY_VOID(co_await pass.reader.read(buffer, length, piece.offset, pass.deadline));
        hash_blocks(buffer.bytes().first(length), hashes);
    }
    buffer = Buffer();
    co_return co_await pass.sink.take(piece, std::move(hashes));
}

Task<void> run_piece(Pass& pass, Extent piece, Buffer buffer) {
    auto done = co_await hash_piece(pass, piece, std::move(buffer));
    if (done) co_return;
    if (!pass.error) pass.error = std::move(done.error());
    pass.stop.request_stop();
}

Task<Result<>> run_pieces(Pass& pass, core::TaskGroup& scope, Scan& scan, Buffers& buffers) {
    while (!pass.error) {
        CO_TRY(auto const piece, co_await scan.next(pass.deadline));
        if (!piece) break;
        auto const bytes =
            piece->zero ? placeholder_bytes : static_cast<std::size_t>(piece->length);
        CO_TRY(auto buffer, co_await buffers.take(bytes, pass.deadline));
        scope.spawn(run_piece(pass, *piece, std::move(buffer)));
    }
    co_return Result<>{};
}

}  // namespace

Task<Result<>> hash_scan(core::Loop& loop, Scan& scan, Reader& reader, Buffers& buffers,
                         HashSink& sink, Deadline deadline) {
    Pass pass{reader, sink, core::LinkedStop(deadline.token()), deadline, {}};
    pass.deadline = Deadline(deadline.at(), pass.stop.token());
    core::TaskGroup scope(loop);
    auto dispatched = co_await run_pieces(pass, scope, scan, buffers);
    co_await scope.join();
    if (pass.error) co_return std::unexpected(std::move(*pass.error));
    co_return dispatched;
}

}  // namespace storage
