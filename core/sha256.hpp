// Sha256: GnuTLS's, piece by piece. Used where files of two hosts are compared, so that an operator
// can compare them too (sha256sum).
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace core {

class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(Sha256 const&) = delete;
    Sha256& operator=(Sha256 const&) = delete;

    void add(std::span<std::byte const> bytes);
    /// 64 hexadecimal digits, of all that was added. Once: the next text begins anew.
    [[nodiscard]] std::string text();

private:
    void* state_;
};

}  // namespace core
