// How far the disks are, written down while they are copied: with the bitmaps, which QEMU keeps,
// all that a sidecar needs to go on after this one was killed; with --verify also the hashes of
// what was sent, in files of the state directory. It is there only in the copying phase: a later
// sidecar that finds it knows that no RAM travels and that nothing was fired. In the run directory,
// without fsync: when the host goes down, so does QEMU with its bitmaps.
#include <unistd.h>

#include <filesystem>

#include "core/log.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "storage/verify.hpp"

namespace sidecar {

using core::Json;
using core::Result;
using machine::source::Phase;

std::string SourceMigration::copy_record_path() const {
    return guest_.paths.run(guest_.name) + "/copying.json";
}

void SourceMigration::write_copy_record() {
    if (!mirror_ || state_.phase != Phase::copying) return;
    auto const progress = mirror_->copy_progress();
    if (!progress) {
        remove_copy_record();
        copy_record_.clear();
        return;
    }
    Json disks = Json::array();
    for (auto const& one : progress->disks) {
        disks.add(Json::object({{"done", one.done},
                                {"offset", one.offset},
                                {"flushed_offset", one.flushed_offset},
                                {"copied_bytes", one.copied_bytes}}));
    }
    auto text = Json::object({{"migration_id", migration_id_},
                              {"round", static_cast<std::int64_t>(progress->round)},
                              {"generation", static_cast<std::int64_t>(progress->generation)},
                              {"disks", disks}})
                    .dump();
    if (text == copy_record_) return;
    auto const written = write_replacing(copy_record_path(), text);
    if (!written) {
        core::log::warning("guest={} {}: a killed sidecar would begin anew", guest_.name,
                           written.error().sentence());
        return;
    }
    copy_record_ = std::move(text);
}

void SourceMigration::remove_copy_record() const { ::unlink(copy_record_path().c_str()); }

std::string SourceMigration::table_path(std::size_t disk) const {
    return fmt::format("{}/verify-{}-{}", guest_.paths.state(guest_.name), migration_id_, disk);
}

/// In `check`, where nothing was touched yet: they need room.
Result<> SourceMigration::make_tables() {
    remove_tables();
    tables_.clear();
    if (!options_.verify) return {};
    for (std::size_t index = 0; index < description_.disks.size(); ++index) {
        TRY(auto table, storage::BlockTable::create(table_path(index),
                                                    description_.disks[index].virtual_bytes));
        tables_.push_back(std::move(table));
    }
    return {};
}

/// Those of an earlier sidecar.
Result<> SourceMigration::open_tables() {
    tables_.clear();
    if (!options_.verify) return {};
    for (std::size_t index = 0; index < description_.disks.size(); ++index) {
        TRY(auto table,
            storage::BlockTable::open(table_path(index), description_.disks[index].virtual_bytes));
        tables_.push_back(std::move(table));
    }
    return {};
}

/// Their names, also of those that a host left when it went down; what we use of them stays.
void SourceMigration::remove_tables() const {
    std::error_code error;
    auto entry = std::filesystem::directory_iterator(guest_.paths.state(guest_.name), error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        bool const ours = entry->path().filename().string().starts_with("verify-");
        if (ours) ::unlink(entry->path().c_str());
    }
}

/// Fills `resume_`. Whether there was anything, of this migration_id, that fits the disks.
bool SourceMigration::read_copy_record() {
    auto const text = read_file(copy_record_path(), limits::manifest_bytes_max);
    if (!text) return false;
    auto const known = Json::parse(*text);
    if (!known || (*known)["migration_id"].text_or("") != migration_id_) return false;
    auto const round = (*known)["round"].integer_or(-1);
    auto const disks = (*known)["disks"].elements();
    if (round < 0 || disks.empty() || disks.size() != description_.disks.size()) return false;
    auto const generation = (*known)["generation"].integer_or(0);
    storage::CopyProgress found{
        static_cast<unsigned>(round), static_cast<unsigned>(generation), {}};
    for (std::size_t index = 0; index < disks.size(); ++index) {
        auto const offset = disks[index]["offset"].integer_or(-1);
        auto const flushed = disks[index]["flushed_offset"].integer_or(-1);
        auto const copied = disks[index]["copied_bytes"].integer_or(-1);
        bool const sane =
            flushed >= 0 && flushed <= offset && copied >= 0 &&
            static_cast<std::uint64_t>(offset) <= description_.disks[index].virtual_bytes;
        if (!sane) return false;
        found.disks.push_back(
            {disks[index]["done"].boolean_or(false), static_cast<std::uint64_t>(offset),
             static_cast<std::uint64_t>(flushed), static_cast<std::uint64_t>(copied)});
    }
    if (auto const tables = open_tables(); !tables) {
        core::log::warning("guest={} {}: its copy cannot be verified, and is undone", guest_.name,
                           tables.error().sentence());
        return false;
    }
    resume_ = std::move(found);
    return true;
}

}  // namespace sidecar
