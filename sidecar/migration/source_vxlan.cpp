// The source's driver where the guest's network is stretched by VXLAN: both ends are compared, and
// the other VTEPs are asked before anything is touched, and told where the guest is.
#include "core/log.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

std::vector<netmove::VxlanMove> SourceMigration::vxlan_moves() const {
    std::vector<netmove::VxlanMove> out;
    for (auto const& interface : description_.interfaces) {
        auto const& from = interface.vxlan_source;
        auto const& to = interface.vxlan_destination;
        if (!from || !to || !from->local || !to->local) continue;
        out.push_back({interface.mac, from->vni, *from->local, *to->local, interface.mtu});
    }
    return out;
}

/// `there`: the destination's ends, one for each interface.
Task<Result<>> SourceMigration::check_vxlan(std::vector<std::optional<netmove::VxlanEnd>> there) {
    for (std::size_t index = 0; index < description_.interfaces.size(); ++index) {
        auto& interface = description_.interfaces[index];
        if (index < there.size() && there[index]) interface.vxlan_destination = there[index];
        CO_TRY_VOID(netmove::check_vxlan_ends(interface));
        if (!interface.vxlan_source || !interface.vxlan_destination) continue;
        CO_TRY(auto const device, netmove::vxlan_port(*guest_.netlink, interface.bridge));
        if (!device) continue;  // gone since; prepare_network() says so
        CO_TRY_VOID(netmove::check_vxlan_mtu(*guest_.netlink, *device,
                                             interface.vxlan_destination->local, interface.mtu));
    }
    if (vteps_.empty()) co_return Result<>{};
    auto moves = vxlan_moves();
    if (moves.empty()) {
        co_return fail(Errc::refused,
                       "no bridge of {} has a VXLAN device that says its address (`local`) on both "
                       "hosts: there is nothing to tell other VTEPs, leave --vtep out",
                       guest_.name);
    }
    co_return co_await vteps_.prepare(std::move(moves), context_.within(limits::check_timeout));
}

/// The guest is at the destination for good: until they all know, what they send is caught here.
Task<void> SourceMigration::wait_for_vteps() {
    if (vteps_.empty()) co_return;
    auto const turned = co_await vteps_.wait_repointed(Deadline::after(limits::vtep_patience));
    if (turned) co_return;
    core::log::error(
        "guest={} migration_id={} {}; what they send to the guest is lost until their entries are "
        "put "
        "right (`bridge fdb replace MAC dev DEVICE dst VTEP self`)",
        guest_.name, migration_id_, turned.error().sentence());
}

}  // namespace sidecar
