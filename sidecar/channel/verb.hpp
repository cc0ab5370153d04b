// Verb: what one end of a connection may ask of the other. The messages are in protocol.hpp and the
// headers beside it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace sidecar::protocol {

enum class Verb : std::uint8_t {
    // A command asks the guest's sidecar.
    migrate,
    set,
    cancel,
    resolve,
    status,
    replicate,
    replicate_stop,
    release,
    peer,
    // The guest's sidecar notifies a command.
    progress,
    // The source of a migration asks its destination.
    check,
    survey,
    heard,
    find_shared,
    prepare,
    send_file,
    reexport,
    hash_file,
    hash,
    fire,
    frames,
    return_frames,
    conntrack,
    seal,
    commit,
    abort,
    // The source of a replication.
    replicate_begin,
    replicate_complete,
    replicate_hand_over,
    replicate_forget,
    // A source asks a host that is another VTEP of the guest's network.
    vtep_prepare,
    vtep_repoint_fdb,
    // A source asks the `serve` that holds a guest's anchor: protocol_anchor.hpp.
    anchor_probe,
    anchor_prepare,
    anchor_point,
    anchor_keep,
    anchor_stand_in,
    anchor_end_stand_in,
    anchor_end_away,
    // Another process of this host asks its `serve`.
    anchor_where,
    anchor_offer,
    anchor_receive,
    anchor_leave,
    anchor_return,
    anchor_list,
    anchor_release,
};
std::string_view name(Verb verb);
std::optional<Verb> verb_from(std::string_view name);

}  // namespace sidecar::protocol
