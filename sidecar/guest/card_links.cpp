#include "sidecar/guest/card_links.hpp"

#include <algorithm>
#include <array>

#include "core/log.hpp"
#include "qmp/devices.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// Of a card whose link is up, the first one passes at once.
constexpr int announcements_max = 3;
/// Our announcements are a series of their own: QEMU's other ones go on.
constexpr auto announcement_id = "sidecar-link";
/// QEMU's minimum, in milliseconds; there is only one round.
constexpr int announcement_pause_ms = 1;

qmp::NetClient const* card_on(std::vector<qmp::NetClient> const& clients,
                              std::string const& netdev) {
    auto const backend = std::ranges::find(clients, netdev, &qmp::NetClient::name);
    if (backend == clients.end() || backend->card.empty()) return nullptr;
    auto const card = std::ranges::find(clients, backend->card, &qmp::NetClient::name);
    return card == clients.end() ? nullptr : &*card;
}

/// Whether frames of the card reach its tap. None: the tap takes none.
Task<Result<std::optional<bool>>> link_is_up(Guest& guest, Nic const& nic, std::string card,
                                             Deadline deadline) {
    if (!guest.netlink) co_return std::optional<bool>();
    auto const& tap = nic.interface.tap;
    auto const before = guest.netlink->link(tap);
    if (!before || !before->up) co_return std::optional<bool>();
    for (int count = 0; count < announcements_max; ++count) {
        auto const announcement = Json::object({{"initial", announcement_pause_ms},
                                                {"max", announcement_pause_ms},
                                                {"rounds", 1},
                                                {"step", 0},
                                                {"interfaces", Json::array({card})},
                                                {"id", announcement_id}});
        CO_TRY_VOID(co_await guest.client->execute("announce-self", announcement, deadline));
        CO_TRY(auto const now, guest.netlink->link(tap));
        if (now.received != before->received) co_return std::optional<bool>(true);
    }
    co_return std::optional<bool>(false);
}

}  // namespace

namespace detail {

bool keeps_its_link(std::string const& kind) {
    constexpr auto kinds =
        std::to_array<std::string_view>({"virtio-net-", "e1000", "igb", "rtl8139"});
    return std::ranges::any_of(kinds,
                               [&](std::string_view start) { return kind.starts_with(start); });
}

}  // namespace detail

Task<Result<CardLinks>> card_links_of(Guest& guest, bool running, Deadline deadline) {
    CardLinks links;
    CO_TRY(auto const clients, co_await qmp::info_network(*guest.client, deadline));
    for (auto const& backend : clients) {
        auto const* const card = card_on(clients, backend.name);
        if (card == nullptr || detail::keeps_its_link(card->model)) continue;
        auto const nic = std::ranges::find_if(
            guest.nics, [&](auto const& one) { return one->interface.netdev == backend.name; });
        std::optional<bool> up;
        if (running && nic != guest.nics.end()) {
            CO_TRY(up, co_await link_is_up(guest, **nic, card->name, deadline));
        }
        if (!up) {
            links.warnings.push_back(
                fmt::format("the link of the card {} ({}) is up at the destination, also if it is "
                            "down here (set_link): QEMU does not say which",
                            card->name, card->model));
        } else if (!*up) {
            core::log::info("guest={} the link of the card {} ({}) is down", guest.name, card->name,
                            card->model);
            links.down.push_back(backend.name);
        }
    }
    co_return links;
}

Task<Result<>> set_links_down(qmp::Client& client, std::vector<std::string> netdevs,
                              Deadline deadline) {
    if (netdevs.empty()) co_return Result<>{};
    CO_TRY(auto const clients, co_await qmp::info_network(client, deadline));
    for (auto const& netdev : netdevs) {
        auto const* const card = card_on(clients, netdev);
        if (card == nullptr) {
            co_return fail(Errc::refused, "QEMU on the destination has no card on the netdev {}",
                           netdev);
        }
        // Of the card alone: the netdev's own would stay down when the card's is set up again.
        auto const down = Json::object({{"name", card->name}, {"up", false}});
        CO_TRY_VOID(co_await client.execute("set_link", down, deadline));
    }
    co_return Result<>{};
}

}  // namespace sidecar
