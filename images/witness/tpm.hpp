// The guest's TPM 2.0, by raw commands to the kernel's /dev/tpm0. Used by control. It proves that
// the TPM which a guest has after a move is its own: what was sealed before can be unsealed, and
// the platform configuration registers hold what they held. Invariant: of the text that is sealed,
// this program keeps nothing but the sealed object.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace witness {

class Tpm {
public:
    struct Unsealed {
        std::string text;
        bool same_pcr = false;  // PCR 16 has the value that it had after seal()
        std::string failure;  // empty: none
    };

    /// Seals `text` under a key of the storage hierarchy, and extends PCR 16. Returns an empty
    /// string, or what failed.
    std::string seal(const std::string& text);
    Unsealed unseal();

private:
    std::mutex mutex_;
    std::vector<std::byte> sealed_;  // its private and its public part, as Load takes them
    std::vector<std::byte> pcr_;
};

}  // namespace witness
