// ldns, loaded when a name in the DNS is first changed (core/library.hpp): few guests have one, and
// ldns and what it needs would cost each sidecar 2 MiB. In this namespace its functions are
// pointers of their own names, so that they are called as always.
#pragma once

#include <ldns/ldns.h>

#include "core/result.hpp"

namespace netmove::dns {

/// Every function of ldns that this folder calls.
#define LDNS_FUNCTIONS(X)         \
    X(ldns_dname2canonical)       \
    X(ldns_get_errorstr_by_id)    \
    X(ldns_pkt2wire)              \
    X(ldns_pkt_aa)                \
    X(ldns_pkt_answer)            \
    X(ldns_pkt_authority)         \
    X(ldns_pkt_free)              \
    X(ldns_pkt_get_rcode)         \
    X(ldns_pkt_push_rr)           \
    X(ldns_pkt_query_new)         \
    X(ldns_pkt_question)          \
    X(ldns_pkt_set_edns_udp_size) \
    X(ldns_pkt_set_id)            \
    X(ldns_pkt_set_opcode)        \
    X(ldns_pkt_set_tsig)          \
    X(ldns_pkt_tc)                \
    X(ldns_pkt_tsig)              \
    X(ldns_pkt_tsig_sign)         \
    X(ldns_pkt_tsig_verify)       \
    X(ldns_rdf2str)               \
    X(ldns_rdf_clone)             \
    X(ldns_rdf_data)              \
    X(ldns_rdf_deep_free)         \
    X(ldns_rdf_new_frm_data)      \
    X(ldns_rdf_size)              \
    X(ldns_rr_free)               \
    X(ldns_rr_get_class)          \
    X(ldns_rr_get_type)           \
    X(ldns_rr_list_rr)            \
    X(ldns_rr_list_rr_count)      \
    X(ldns_rr_new)                \
    X(ldns_rr_owner)              \
    X(ldns_rr_push_rdf)           \
    X(ldns_rr_rd_count)           \
    X(ldns_rr_rdf)                \
    X(ldns_rr_set_class)          \
    X(ldns_rr_set_owner)          \
    X(ldns_rr_set_ttl)            \
    X(ldns_rr_set_type)           \
    X(ldns_rr_ttl)                \
    X(ldns_str2rdf_dname)         \
    X(ldns_wire2pkt)

#define DECLARE(name) inline decltype(&::name) name = nullptr;
LDNS_FUNCTIONS(DECLARE)
#undef DECLARE

/// Call it before any of these; a second call does nothing. Fails with refused if ldns is missing.
core::Result<> load_ldns();

}  // namespace netmove::dns
