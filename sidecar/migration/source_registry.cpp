// The source's dealings with the registry: it is read before the guest stops, and written when the
// guest has moved and nothing waits any more. It never fails a migration, except that another host
// owns the guest.
#include "core/log.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Result;
using core::Task;

void SourceMigration::warn(std::string const& line) {
    if (line.empty() || warning_.find(line) != std::string::npos) return;
    core::log::warning("guest={} migration_id={} {}", guest_.name, migration_id_, line);
    if (!warning_.empty()) warning_ += "; ";
    warning_ += line;
}

Task<Result<>> SourceMigration::check_owner() {
    CO_TRY(auto const warning, co_await ownership_.check_departure());
    warn(warning);
    description_.owner = ownership_.known();
    co_return Result<>{};
}

void SourceMigration::note_destination(protocol::CheckAnswer const& answer) {
    destination_host_ = {answer.host.id, answer.host.name, options_.destination};
    for (auto const& line : answer.warnings) warn(line);
    if (guest_.paths.registry.empty() || answer.has_registry) return;
    warn(
        fmt::format("`sidecar serve` of {} has no --registry: later moves from there will not be "
                    "in the registry",
                    options_.destination));
}

Task<void> SourceMigration::record_departure() {
    warn(co_await ownership_.departed(
        {destination_host_, migration_id_, registry::State::here, description_.addresses()}));
}

}  // namespace sidecar
