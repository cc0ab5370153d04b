#include "sidecar/anchor/record_files.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "core/fd.hpp"
#include "core/fsync.hpp"

namespace sidecar {

using core::Deadline;
using core::Result;
using core::Task;

Task<Result<>> RecordFiles::write(HomeRecord const& record) {
    return change(record_path(paths_, record), record.to_json().dump_pretty() + "\n");
}

Task<Result<>> RecordFiles::write(FarRecord const& record) {
    return change(record_path(paths_, record), record.to_json().dump_pretty() + "\n");
}

Task<Result<>> RecordFiles::remove(HomeRecord const& record) {
    return change(record_path(paths_, record), std::nullopt);
}

Task<Result<>> RecordFiles::remove(FarRecord const& record) {
    return change(record_path(paths_, record), std::nullopt);
}

/// Not a coroutine: the order of the calls decides, not the order in which they get their turn.
Task<Result<>> RecordFiles::change(std::string path, Content content) {
    wanted_[path] = std::move(content);
    return turn_.run(apply_wanted(std::move(path)));
}

Task<Result<>> RecordFiles::apply_wanted(std::string path) {
    auto const at = wanted_.find(path);
    // Another call had its turn after this one asked: it wrote what was asked for last.
    if (at == wanted_.end()) co_return Result<>{};
    auto const content = at->second;
    CO_TRY_VOID(co_await apply(path, content));
    auto const now = wanted_.find(path);
    if (now != wanted_.end() && now->second == content) wanted_.erase(now);
    co_return Result<>{};
}

Task<Result<>> RecordFiles::apply(std::string path, Content content) {
    if (content) {
        CO_TRY_VOID(make_directory(paths_.anchors()));
        auto const temporary = path + ".tmp";
        CO_TRY_VOID(write_replacing(temporary, *content));
        CO_TRY_VOID(co_await sync(temporary));
        if (rename(temporary.c_str(), path.c_str()) < 0) {
            co_return core::fail_errno(errno, "cannot write {}", path);
        }
    } else if (unlink(path.c_str()) < 0) {
        if (errno == ENOENT) co_return Result<>{};
        co_return core::fail_errno(errno, "cannot remove {}", path);
    }
    co_return co_await sync(paths_.anchors());
}

/// A file or a directory.
Task<Result<>> RecordFiles::sync(std::string path) {
    core::Fd const file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) co_return core::fail_errno(errno, "cannot open {}", path);
    auto const synced = co_await core::fsync(loop_, file.get(), Deadline::never());
    if (!synced) co_return core::fail_errno(synced.error().os, "cannot sync {}", path);
    co_return Result<>{};
}

}  // namespace sidecar
