#include "netmove/dns/ldns.hpp"

#include "core/library.hpp"

namespace netmove::dns {

core::Result<> load_ldns() {
    static bool loaded = false;
    if (loaded) return {};
    TRY(auto const library, core::Library::load({"libldns.so.3"}, "libldns3"));
#define BIND(name) TRY_VOID(library.bind(name, #name));
    LDNS_FUNCTIONS(BIND)
#undef BIND
    loaded = true;
    return {};
}

}  // namespace netmove::dns
