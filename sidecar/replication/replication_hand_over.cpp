// The end of `sidecar replicate --once --hand-over`: a guest that is off is given to the
// destination. Its point is complete there. First QEMU here ends, then its images are set aside,
// and only then is the destination told. If this is interrupted at any step, the guest is off on
// both hosts. The destination then starts it only if the operator says that this host is fenced, or
// if this host can no longer start it.
#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/replication/replication_source.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<>> ReplicationSource::end_guest() {
    auto& client = *guest_.client;
    auto const started = [this] {
        return fail(Errc::refused,
                    "{} was started after its point had been taken: it is not handed over, because "
                    "its disks here are newer",
                    guest_.name);
    };
    stop_for_test("hand_over");
    if (!last_ || last_->consistency.kind != Consistency::Kind::off) co_return started();
    auto const deadline = Deadline::after(limits::qmp_timeout);
    CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
    if (consistency().kind != Consistency::Kind::off || !is_off(status.status)) co_return started();
    (void)co_await qmp::quit(client, deadline);  // the end of its process shows whether it worked
    CO_TRY_VOID(
        co_await core::wait_exit(loop_, guest_.process, Deadline::after(limits::rollback_timeout)));
    // All events of QEMU have arrived, also that of a start at the last moment.
    CO_TRY_VOID(co_await client.wait_closed(Deadline::after(limits::qmp_timeout)));
    if (consistency().kind != Consistency::Kind::off) co_return started();
    co_return Result<>{};
}

Result<> ReplicationSource::set_images_aside() {
    std::size_t done = 0;
    Result<> aside;
    for (; done < description_.disks.size() && aside; ++done) {
        aside = storage::tombstone(description_.disks[done].path, migration_id_);
    }
    if (aside) {
        for (auto const& disk : description_.disks) {
            core::log::info("guest={} replication={} disk={} the stale image is now {}",
                            guest_.name, migration_id_, disk.name,
                            storage::tombstone_path(disk.path, migration_id_));
        }
        return {};
    }
    for (std::size_t i = 0; i + 1 < done; ++i) {
        auto const back = storage::untombstone(description_.disks[i].path, migration_id_);
        if (!back) core::log::error("guest={} {}", guest_.name, back.error().sentence());
    }
    return aside;
}

Task<Result<>> ReplicationSource::tell_handed_over() {
    stop_for_test("tell_handed_over");
    if (!last_) co_return fail(Errc::invalid, "there is no point that could be handed over");
    co_return co_await ask_once(protocol::ReplicateHandOver{last_->number});
}

}  // namespace sidecar
