// libcurl, loaded when an etcd is first asked (core/library.hpp): a host without one need not have
// it, and it would cost each sidecar 3 MiB. In this namespace its functions are pointers of their
// own names, so that they are called as always.
#pragma once

#include <curl/curl.h>

#include "core/result.hpp"

namespace sidecar::registry {

/// Every function of libcurl that this folder calls.
#define CURL_FUNCTIONS(X)       \
    X(curl_easy_cleanup)        \
    X(curl_easy_getinfo)        \
    X(curl_easy_init)           \
    X(curl_easy_setopt)         \
    X(curl_easy_strerror)       \
    X(curl_global_init)         \
    X(curl_multi_add_handle)    \
    X(curl_multi_assign)        \
    X(curl_multi_cleanup)       \
    X(curl_multi_info_read)     \
    X(curl_multi_init)          \
    X(curl_multi_remove_handle) \
    X(curl_multi_setopt)        \
    X(curl_multi_socket_action) \
    X(curl_multi_strerror)      \
    X(curl_slist_append)        \
    X(curl_slist_free_all)

#define DECLARE(name) inline decltype(&::name) name = nullptr;
CURL_FUNCTIONS(DECLARE)
#undef DECLARE

/// Loads and initializes it. Call it before any of these; a second call does nothing. Fails with
/// refused if it is missing, and with io.
core::Result<> load_curl();

}  // namespace sidecar::registry
