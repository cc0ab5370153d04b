// MigrationReport: what the source's driver reports about a migration: a line of progress, the
// status while it runs, the report at its end, and the message for the operator when it cannot
// continue. It reads the driver and its parts and changes none of them. Invariant: what it
// reads outlives it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "sidecar/handover/dns_update.hpp"
#include "sidecar/machine/source.hpp"
#include "sidecar/migration/file_comparison.hpp"
#include "sidecar/migration/ram_stream.hpp"
#include "sidecar/migration/source_context.hpp"
#include "sidecar/migration/source_disks.hpp"
#include "sidecar/migration/source_files.hpp"
#include "sidecar/migration/source_network.hpp"

namespace sidecar {

/// How actions of the machine have failed.
struct ActionFailures {
    std::map<machine::source::Action, int> in_a_row;  ///< 0 after a success.
    std::map<machine::source::Action, std::string> last_error;
};

class MigrationReport {
public:
    /// The parts of the driver that the report reads.
    struct Parts {
        machine::source::State const& state;
        ActionFailures const& failures;
        /// The first failure: reported to the operator.
        std::optional<core::Error> const& failure;
        std::string const& check_warning;  ///< Why another time would be better; usually empty.
        protocol::DataPort const& data_port;  ///< Tried during the check.
        bool const& recovered;  ///< The migration of an earlier sidecar.
        FileComparison const& comparison;
        SourceFiles const& files;
        SourceDisks const& disks;
        RamStream const& ram;
        SourceNetwork const& network;
        DnsUpdate const& dns;
    };
    MigrationReport(SourceContext context, Parts parts) : context_(context), parts_(parts) {}

    /// Reads the current progress of the copy; the fraction that progress()
    /// reports never decreases.
    void update_fraction();
    /// {phase, elapsed_ms, percent, disks_..., ram_...}: one line of progress. `destination_lost`:
    /// there is no connection to the destination.
    [[nodiscard]] core::Json progress(bool destination_lost) const;
    /// progress(), the convergence, and the operator's options. For `sidecar status`.
    [[nodiscard]] core::Json status(bool destination_lost) const;
    /// The migration as a whole. Also while it is in doubt: then in_doubt is its outcome.
    [[nodiscard]] core::Json report() const;
    /// One line for each thing that was checked, for `migrate --check`.
    [[nodiscard]] core::Json checked() const;
    /// The error for the operator if RAM does not converge: timed_out.
    [[nodiscard]] core::Error ram_not_converging() const;
    /// The error for the operator if the copy is suspended: timed_out.
    [[nodiscard]] core::Error suspended() const;

private:
    /// How the disks and RAM converge, and the size of the last delta.
    [[nodiscard]] core::Json convergence() const;
    [[nodiscard]] core::Json ram_convergence() const;
    [[nodiscard]] core::Json disks() const;
    [[nodiscard]] core::Json shared_disks() const;
    [[nodiscard]] core::Json ram() const;
    [[nodiscard]] core::Json phases() const;
    void add_moments(core::Json& report) const;
    [[nodiscard]] std::vector<std::string> warnings() const;

    SourceContext context_;
    Parts parts_;
    double fraction_ = 0;  ///< Of the whole: the disks are most of it, RAM is the rest.
};

}  // namespace sidecar
