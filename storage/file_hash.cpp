#include "storage/file_hash.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/fd.hpp"
#include "core/sha256.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

namespace {

std::int64_t in_ns(timespec const& time) {
    constexpr std::int64_t ns_per_second = 1'000'000'000;
    return time.tv_sec * ns_per_second + time.tv_nsec;
}

Result<FileIdentity> identity(struct stat const& file, std::string const& path) {
    if (!S_ISREG(file.st_mode)) return fail(Errc::invalid, "{} is not a file", path);
    return FileIdentity{file.st_dev, file.st_ino, static_cast<std::uint64_t>(file.st_size),
                        in_ns(file.st_mtim), in_ns(file.st_ctim)};
}

Result<FileIdentity> identity_of(core::Fd const& file, std::string const& path) {
    struct stat about{};
    if (fstat(file.get(), &about) < 0) return fail_errno(errno, "cannot look at {}", path);
    return identity(about, path);
}

Result<core::Fd> open_file(std::string const& path) {
    // O_NONBLOCK: a FIFO must not block us. What is no regular file is refused by its type.
    core::Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file) return fail_errno(errno, "cannot read {}", path);
    (void)posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);  // only a hint
    return file;
}

Task<Result<std::string>> hash_range(core::Loop& loop, int file, std::uint64_t offset,
                                     std::uint64_t length, std::uint64_t& done, Deadline deadline) {
    core::Sha256 hash;
    std::vector<std::byte> bytes(limits::file_read_bytes);
    std::uint64_t const begun = done;
    while (done - begun < length) {
        auto const want = std::min<std::uint64_t>(bytes.size(), length - (done - begun));
        CO_TRY(int const got,
               co_await loop.read_at(file, std::span(bytes).first(static_cast<std::size_t>(want)),
                                     offset + (done - begun), deadline));
        if (got == 0) break;
        hash.add(std::span(bytes).first(static_cast<std::size_t>(got)));
        done += static_cast<std::uint64_t>(got);
    }
    co_return hash.text();
}

}  // namespace

Json FileIdentity::to_json() const {
    return Json::object({{"device", device},
                         {"inode", inode},
                         {"bytes", bytes},
                         {"mtime_ns", mtime_ns},
                         {"ctime_ns", ctime_ns}});
}

Result<FileIdentity> FileIdentity::from_json(Json const& json) {
    FileIdentity made;
    std::pair<char const*, std::uint64_t*> const numbers[] = {
        {"device", &made.device}, {"inode", &made.inode}, {"bytes", &made.bytes}};
    for (auto const& [key, value] : numbers) {
        TRY(auto const number, json.integer(key));
        *value = static_cast<std::uint64_t>(number);
    }
    TRY(made.mtime_ns, json.integer("mtime_ns"));
    TRY(made.ctime_ns, json.integer("ctime_ns"));
    return made;
}

Result<FileIdentity> identity_of(std::string const& path) {
    struct stat about{};
    if (stat(path.c_str(), &about) < 0) return fail_errno(errno, "cannot find {}", path);
    return identity(about, path);
}

Task<Result<FileHash>> hash_file(core::Loop& loop, std::string path, std::uint64_t& done,
                                 Deadline deadline) {
    CO_TRY(auto const file, open_file(path));
    CO_TRY(auto const before, identity_of(file, path));
    std::uint64_t const begun = done;
    auto hashed = co_await hash_range(loop, file.get(), 0, before.bytes, done, deadline);
    if (!hashed) {
        co_return std::unexpected(std::move(hashed.error()).while_doing("reading " + path));
    }
    CO_TRY(auto const after, identity_of(file, path));
    if (before != after || done - begun != before.bytes) {
        co_return fail(Errc::refused, "{} changed while it was read, and must stay as it is", path);
    }
    co_return FileHash{before, std::move(*hashed)};
}

Task<Result<std::string>> hash_part(core::Loop& loop, std::string path, std::uint64_t offset,
                                    std::uint64_t length, Deadline deadline) {
    CO_TRY(auto const file, open_file(path));
    CO_TRY_VOID(identity_of(file, path));
    std::uint64_t done = 0;
    auto hashed = co_await hash_range(loop, file.get(), offset, length, done, deadline);
    if (!hashed) {
        co_return std::unexpected(std::move(hashed.error()).while_doing("reading " + path));
    }
    co_return hashed;
}

std::string HashMemory::path_of(FileIdentity const& identity) const {
    return fmt::format("{}/{:x}-{}.sha256", directory_, identity.device, identity.inode);
}

std::optional<std::string> HashMemory::find(FileIdentity const& identity) const {
    std::ifstream file(path_of(identity));
    std::ostringstream text;
    text << file.rdbuf();
    auto const known = Json::parse(text.str());
    if (!file || !known) return {};
    auto const of = FileIdentity::from_json((*known)["file"]);
    auto hash = (*known)["sha256"].text_or("");
    constexpr std::size_t digits = 64;
    if (!of || *of != identity || hash.size() != digits) return {};
    return hash;
}

void HashMemory::remember(FileHash const& hash, std::chrono::system_clock::time_point begun) const {
    auto const begun_ns =
        std::chrono::duration_cast<std::chrono::nanoseconds>(begun.time_since_epoch()).count();
    constexpr std::int64_t settled_ns = std::chrono::nanoseconds(limits::file_settled).count();
    auto const youngest = std::max(hash.identity.mtime_ns, hash.identity.ctime_ns);
    if (youngest > begun_ns - settled_ns) return;
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    forget_oldest();
    auto const path = path_of(hash.identity);
    // Of this process alone until it has its name: a reader finds all of it or an older one.
    auto const temporary = fmt::format("{}.{}", path, getpid());
    std::ofstream file(temporary, std::ios::trunc);
    file << Json::object({{"file", hash.identity.to_json()}, {"sha256", hash.sha256}}).dump()
         << '\n';
    file.close();
    if (file) std::filesystem::rename(temporary, path, error);
    if (!file || error) std::filesystem::remove(temporary, error);
}

void HashMemory::forget_oldest() const {
    std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> known;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory_, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        known.emplace_back(entry->last_write_time(error), entry->path());
    }
    if (known.size() < limits::hashes_remembered_max) return;
    std::ranges::sort(known);
    known.resize(known.size() - limits::hashes_remembered_max + 1);
    for (auto const& one : known) std::filesystem::remove(one.second, error);
}

}  // namespace storage
