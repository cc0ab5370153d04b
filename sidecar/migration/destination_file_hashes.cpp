#include "sidecar/migration/destination_file_hashes.hpp"

#include "core/log.hpp"
#include "sidecar/guest/allowed_files.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<protocol::HashFileAnswer>> DestinationFileHashes::hash(protocol::HashFile request) {
    auto const& maps = context_.options.maps;
    auto const path = map_path(maps, request.path);
    // A hash of a few bytes tells what they are.
    if (request.length > 0 && request.length < limits::compared_block_bytes) {
        co_return fail(Errc::refused, "{} bytes are too few to compare", request.length);
    }
    qmp::FileUse const use{request.path, path, qmp::FileAccess::read};
    CO_TRY_VOID(check_file_use(context_.paths, policy_of(maps, {}), use));
    if (request.length > 0) {
        CO_TRY(auto const hash,
               co_await storage::hash_part(context_.loop, path, request.offset, request.length,
                                           Deadline::after(limits::file_hash_patience)));
        co_return protocol::HashFileAnswer{hash, 0};
    }
    auto file = hashes_[path];
    if (!file || (file->finished.is_set() && !still_right(*file, path))) {
        if (hashes_.size() > limits::compared_files_max) {
            hashes_.erase(path);
            co_return fail(Errc::refused, "the source asks for more than {} files",
                           limits::compared_files_max);
        }
        file = hashes_[path] = std::make_shared<Hashing>(context_.loop);
        reading_.spawn(read(path, file));
    }
    auto const waited = co_await file->finished.wait(Deadline::after(limits::file_hash_answer));
    if (!waited) co_return protocol::HashFileAnswer{"", file->done_bytes};
    if (!file->hash) co_return std::unexpected(file->hash.error());
    co_return protocol::HashFileAnswer{file->hash->sha256, 0};
}

bool DestinationFileHashes::still_right(Hashing const& file, std::string const& path) {
    auto const here = storage::identity_of(path);
    return file.hash && here && file.hash->identity == *here;
}

/// Ends early if this sidecar ends.
Task<void> DestinationFileHashes::read(std::string path, std::shared_ptr<Hashing> into) {
    storage::HashMemory const memory(context_.paths.file_hashes());
    auto const begun = std::chrono::system_clock::now();
    auto const here = storage::identity_of(path);
    auto const known = here ? memory.find(*here) : std::nullopt;
    if (known) {
        into->hash = storage::FileHash{*here, *known};
    } else {
        into->hash = co_await storage::hash_file(
            context_.loop, path, into->done_bytes,
            Deadline::after(limits::file_hash_timeout, context_.stop.get_token()));
        if (into->hash) memory.remember(*into->hash, begun);
    }
    core::log::debug("guest={} file={} {}", context_.name, path,
                     into->hash ? into->hash->sha256 : into->hash.error().sentence());
    into->finished.set();
}

Result<bool> DestinationFileHashes::is_compared(std::string const& path,
                                                std::string const& sha256) const {
    storage::HashMemory const memory(context_.paths.file_hashes());
    TRY(auto const here, storage::identity_of(path));
    auto hash = memory.find(here);
    auto const read = hashes_.find(path);
    if (!hash && read != hashes_.end() && still_right(*read->second, path)) {
        hash = read->second->hash->sha256;
    }
    return hash && !sha256.empty() && *hash == sha256;
}

Result<> DestinationFileHashes::check_compared() const {
    auto const& maps = context_.options.maps;
    auto const changed = [](std::string const& what) {
        return fail(Errc::refused,
                    "{} is not what was compared, or was changed since: migrate again", what);
    };
    for (auto const& disk : context_.description.disks) {
        for (auto const& base : disk.bases) {
            auto const path = map_path(maps, base.path);
            TRY(bool const same, is_compared(path, base.sha256));
            if (!same) return changed(fmt::format("the base {} of disk {}", path, disk.name));
        }
    }
    for (auto const& file : context_.description.files) {
        if (file.copied || file.kind == GuestFile::Kind::loaded) continue;
        auto const path = map_path(maps, file.path);
        TRY(bool const same, is_compared(path, file.sha256));
        if (!same) return changed(fmt::format("{} ({})", file.what, path));
    }
    return {};
}

}  // namespace sidecar
