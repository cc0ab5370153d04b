#include "sidecar/migration/destination_bases.hpp"

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

Task<Result<protocol::HashBaseAnswer>> DestinationBases::hash(protocol::HashBase request) {
    auto const& maps = context_.options.maps;
    auto const path = map_path(maps, request.path);
    // A hash of a few bytes tells what they are.
    if (request.length > 0 && request.length < limits::base_block_bytes) {
        co_return fail(Errc::refused, "{} bytes are too few to compare", request.length);
    }
    qmp::FileUse const use{request.path, path, qmp::FileAccess::read};
    CO_TRY_VOID(check_file_use(context_.paths, policy_of(maps, {}), use));
    if (request.length > 0) {
        CO_TRY(auto const hash,
               co_await storage::hash_part(context_.loop, path, request.offset, request.length,
                                           Deadline::after(limits::base_patience)));
        co_return protocol::HashBaseAnswer{hash, 0};
    }
    auto base = hashes_[path];
    if (!base || (base->finished.is_set() && !still_right(*base, path))) {
        if (hashes_.size() > limits::base_hashes_max) {
            hashes_.erase(path);
            co_return fail(Errc::refused, "the source asks for more than {} files",
                           limits::base_hashes_max);
        }
        base = hashes_[path] = std::make_shared<BaseHash>(context_.loop);
        reading_.spawn(read(path, base));
    }
    auto const waited = co_await base->finished.wait(Deadline::after(limits::base_answer));
    if (!waited) co_return protocol::HashBaseAnswer{"", base->done_bytes};
    if (!base->hash) co_return std::unexpected(base->hash.error());
    co_return protocol::HashBaseAnswer{base->hash->sha256, 0};
}

bool DestinationBases::still_right(BaseHash const& base, std::string const& path) {
    auto const here = storage::identity_of(path);
    return base.hash && here && base.hash->identity == *here;
}

/// Ends early if this sidecar ends.
Task<void> DestinationBases::read(std::string path, std::shared_ptr<BaseHash> into) {
    storage::HashMemory const memory(context_.paths.file_hashes());
    auto const begun = std::chrono::system_clock::now();
    auto const here = storage::identity_of(path);
    auto const known = here ? memory.find(*here) : std::nullopt;
    if (known) {
        into->hash = storage::FileHash{*here, *known};
    } else {
        into->hash = co_await storage::hash_file(
            context_.loop, path, into->done_bytes,
            Deadline::after(limits::base_hash_timeout, context_.stop.get_token()));
        if (into->hash) memory.remember(*into->hash, begun);
    }
    core::log::debug("guest={} base={} {}", context_.name, path,
                     into->hash ? into->hash->sha256 : into->hash.error().sentence());
    into->finished.set();
}

Result<bool> DestinationBases::is_compared(std::string const& path,
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

Result<> DestinationBases::check_compared() const {
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
