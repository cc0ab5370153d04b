// While one lives, this program's getaddrinfo(3) does not answer for names (core_resolve.cpp).
#pragma once

struct SilentResolver {
    SilentResolver();
    ~SilentResolver();
    SilentResolver(SilentResolver const&) = delete;
    SilentResolver& operator=(SilentResolver const&) = delete;
};
