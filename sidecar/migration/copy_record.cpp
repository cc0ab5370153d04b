#include "sidecar/migration/copy_record.hpp"

#include <unistd.h>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Json;

std::string CopyRecord::path() const {
    return context_.guest.paths.run(context_.guest.name) + "/copying.json";
}

void CopyRecord::write(std::optional<storage::CopyProgress> const& progress) {
    if (!progress) {
        remove();
        written_.clear();
        return;
    }
    Json disks = Json::array();
    for (auto const& one : progress->disks) {
        disks.add(Json::object({{"done", one.done},
                                {"offset", one.offset},
                                {"flushed_offset", one.flushed_offset},
                                {"copied_bytes", one.copied_bytes}}));
    }
    auto text = Json::object({{"migration_id", context_.migration_id},
                              {"round", static_cast<std::int64_t>(progress->round)},
                              {"generation", static_cast<std::int64_t>(progress->generation)},
                              {"disks", disks}})
                    .dump();
    if (text == written_) return;
    auto const written = write_replacing(path(), text);
    if (!written) {
        core::log::warning("guest={} {}: if this sidecar is killed, the copy starts again",
                           context_.guest.name, written.error().sentence());
        return;
    }
    written_ = std::move(text);
}

void CopyRecord::remove() const { ::unlink(path().c_str()); }

std::optional<storage::CopyProgress> CopyRecord::read() const {
    auto const text = read_file(path(), limits::manifest_bytes_max);
    if (!text) return std::nullopt;
    auto const known = Json::parse(*text);
    if (!known || (*known)["migration_id"].text_or("") != context_.migration_id)
        return std::nullopt;
    auto const round = (*known)["round"].integer_or(-1);
    auto const disks = (*known)["disks"].elements();
    if (round < 0 || disks.empty() || disks.size() != context_.description.disks.size())
        return std::nullopt;
    auto const generation = (*known)["generation"].integer_or(0);
    storage::CopyProgress found{
        static_cast<unsigned>(round), static_cast<unsigned>(generation), {}};
    for (std::size_t index = 0; index < disks.size(); ++index) {
        auto const offset = disks[index]["offset"].integer_or(-1);
        auto const flushed = disks[index]["flushed_offset"].integer_or(-1);
        auto const copied = disks[index]["copied_bytes"].integer_or(-1);
        bool const sane =
            flushed >= 0 && flushed <= offset && copied >= 0 &&
            static_cast<std::uint64_t>(offset) <= context_.description.disks[index].virtual_bytes;
        if (!sane) return std::nullopt;
        found.disks.push_back(
            {disks[index]["done"].boolean_or(false), static_cast<std::uint64_t>(offset),
             static_cast<std::uint64_t>(flushed), static_cast<std::uint64_t>(copied)});
    }
    return found;
}

}  // namespace sidecar
