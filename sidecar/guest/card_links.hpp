// Links of network cards that are down (`set_link`). QEMU finds out from the state of most kinds of
// card that their link is down, when it loads them. Of the others (pcnet, vmxnet3, ne2k_pci,
// i8255x, tulip) it does not: their link would be up at the destination, and a guest that was cut
// off would not be any more. No command of QEMU says whether a link is down. So the source makes
// QEMU announce such a card: a frame passes only if the link is up. The destination sets the link
// before the guest is loaded.
#pragma once

#include <string>
#include <vector>

#include "sidecar/guest/guest.hpp"

namespace sidecar {

struct CardLinks {
    std::vector<std::string> down = {};  ///< Netdevs of cards of those kinds.
    std::vector<std::string> warnings = {};
};
/// Of the guest at the source. `running`: a stopped one sends no frame, so its links are not known.
core::Task<core::Result<CardLinks>> card_links_of(Guest& guest, bool running,
                                                  core::Deadline deadline);

/// At the destination, of the cards on these netdevs. Fails with refused if there is none.
core::Task<core::Result<>> set_links_down(qmp::Client& client, std::vector<std::string> netdevs,
                                          core::Deadline deadline);

namespace detail {
/// QEMU finds out from its state whether its link is down.
bool keeps_its_link(std::string const& kind);
}  // namespace detail

}  // namespace sidecar
