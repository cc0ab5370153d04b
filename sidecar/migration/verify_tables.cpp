#include "sidecar/migration/verify_tables.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "storage/verify.hpp"

namespace sidecar {

using core::Result;

std::string VerifyTables::path(std::size_t disk) const {
    return fmt::format("{}/verify-{}-{}", context_.guest.paths.state(context_.guest.name),
                       context_.migration_id, disk);
}

Result<> VerifyTables::make() {
    remove();
    tables_.clear();
    if (!context_.options.verify) return {};
    for (std::size_t index = 0; index < context_.description.disks.size(); ++index) {
        TRY(auto table, storage::BlockTable::create(
                            path(index), context_.description.disks[index].virtual_bytes));
        tables_.push_back(std::move(table));
    }
    return {};
}

Result<> VerifyTables::open() {
    tables_.clear();
    if (!context_.options.verify) return {};
    for (std::size_t index = 0; index < context_.description.disks.size(); ++index) {
        TRY(auto table, storage::BlockTable::open(path(index),
                                                  context_.description.disks[index].virtual_bytes));
        tables_.push_back(std::move(table));
    }
    return {};
}

void VerifyTables::remove() const {
    std::error_code error;
    auto entry =
        std::filesystem::directory_iterator(context_.guest.paths.state(context_.guest.name), error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        bool const ours = entry->path().filename().string().starts_with("verify-");
        if (ours) ::unlink(entry->path().c_str());
    }
}

}  // namespace sidecar
