// Commands of the TPM 2.0 Library Specification, part 3; their structures are in part 2.
#include "tpm.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <span>
#include <utility>

namespace witness {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::size_t response_bytes_max = 4096;
constexpr std::size_t header_bytes = 10;  // tag, length, code
constexpr std::uint32_t storage_hierarchy = 0x40000001;  // TPM_RH_OWNER
constexpr std::uint32_t pcr_of_applications = 16;

constexpr std::uint16_t ecc = 0x0023;
constexpr std::uint16_t keyed_hash = 0x0008;
constexpr std::uint16_t sha256 = 0x000b;
constexpr std::uint16_t aes = 0x0006;
constexpr std::uint16_t cfb = 0x0043;
constexpr std::uint16_t none = 0x0010;
constexpr std::uint16_t nist_p256 = 0x0003;
constexpr std::size_t sha256_bytes = 32;

void put16(Bytes& to, std::size_t value) {
    to.push_back(std::byte(value >> 8U & 0xffU));
    to.push_back(std::byte(value & 0xffU));
}
void put32(Bytes& to, std::uint32_t value) {
    put16(to, value >> 16U);
    put16(to, value & 0xffffU);
}
void put(Bytes& to, std::span<const std::byte> bytes) {
    to.insert(to.end(), bytes.begin(), bytes.end());
}
/// With its length before it: TPM2B_...
void put_sized(Bytes& to, std::span<const std::byte> bytes) {
    put16(to, bytes.size());
    put(to, bytes);
}
void put_words(Bytes& to, std::initializer_list<std::uint16_t> words) {
    for (const std::uint16_t word : words) put16(to, word);
}

std::uint32_t number(std::span<const std::byte> bytes) {
    std::uint32_t value = 0;
    for (const std::byte one : bytes) value = value << 8U | std::to_integer<std::uint32_t>(one);
    return value;
}

/// The kernel's TPM, open for a few commands. A failure ends them: the later ones do nothing.
class Device {
public:
    Device() : fd_(open("/dev/tpm0", O_RDWR | O_CLOEXEC)) {
        if (fd_ < 0) failure = std::string("/dev/tpm0: ") + std::strerror(errno);
    }
    ~Device() {
        if (fd_ >= 0) close(fd_);
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    /// `handles` are authorized by the empty password if `authorized`. Returns what follows the
    /// header of the answer, at least `bytes_min`.
    Bytes run(const char* name, std::uint32_t code, std::initializer_list<std::uint32_t> handles,
              bool authorized, const Bytes& parameters, std::size_t bytes_min) {
        if (!failure.empty()) return Bytes(bytes_min);
        Bytes body;
        for (const std::uint32_t handle : handles) put32(body, handle);
        if (authorized) {
            put32(body, 9);  // bytes: TPM_RS_PW, no nonce, no attributes, no password
            put32(body, 0x40000009);
            put_words(body, {0, 0});
            body.push_back(std::byte(0));
        }
        put(body, parameters);
        Bytes command;
        put16(command, authorized ? 0x8002 : 0x8001);
        put32(command, static_cast<std::uint32_t>(header_bytes + body.size()));
        put32(command, code);
        put(command, body);
        Bytes answer(response_bytes_max);
        const bool sent =
            write(fd_, command.data(), command.size()) == static_cast<ssize_t>(command.size());
        const ssize_t got = sent ? read(fd_, answer.data(), answer.size()) : -1;
        answer.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
        const std::uint32_t result =
            answer.size() < header_bytes ? 0 : number(std::span(answer).subspan(6, 4));
        if (answer.size() < header_bytes || result != 0) {
            char text[16];
            std::snprintf(text, sizeof text, "code %#x", result);
            failure = std::string(name) + ": " + (result != 0 ? text : std::strerror(errno));
            return Bytes(bytes_min);
        }
        answer.erase(answer.begin(), answer.begin() + header_bytes);
        if (answer.size() < bytes_min) failure = std::string(name) + ": a short answer";
        answer.resize(std::max(answer.size(), bytes_min));
        return answer;
    }

    /// The same key at each call: it follows from the seed of the hierarchy.
    std::uint32_t create_primary() {
        Bytes key;
        put_words(key, {ecc, sha256});
        put32(key, 0x00030072);  // a storage key that stays in this TPM
        put_words(key, {0, aes, 128, cfb, none, nist_p256, none, 0, 0});
        Bytes parameters;
        put_words(parameters, {4, 0, 0});  // no password, no data
        put_sized(parameters, key);
        put16(parameters, 0);
        put32(parameters, 0);
        return handle_in(run("CreatePrimary", 0x131, {storage_hierarchy}, true, parameters, 4));
    }
    /// `text` as an object under `parent`: its private and its public part.
    Bytes create_sealed(std::uint32_t parent, const std::string& text) {
        Bytes sensitive;
        put16(sensitive, 0);  // no password
        put_sized(sensitive, std::as_bytes(std::span(text)));
        Bytes object;
        put_words(object, {keyed_hash, sha256});
        put32(object, 0x00000052);  // stays in this TPM, and under this key
        put_words(object, {0, none, 0});
        Bytes parameters;
        put_sized(parameters, sensitive);
        put_sized(parameters, object);
        put16(parameters, 0);
        put32(parameters, 0);
        const Bytes answer = run("Create", 0x153, {parent}, true, parameters, 8);
        const std::span<const std::byte> parts = std::span(answer).subspan(4);
        const std::size_t first = 2 + number(parts.first(2));
        if (first + 2 > parts.size()) return {};
        const std::size_t both = first + 2 + number(parts.subspan(first, 2));
        if (both > parts.size()) return {};
        return {parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(both)};
    }
    std::uint32_t load(std::uint32_t parent, const Bytes& object) {
        return handle_in(run("Load", 0x157, {parent}, true, object, 4));
    }
    std::string unseal(std::uint32_t item) {
        const Bytes answer = run("Unseal", 0x15e, {item}, true, {}, 6);
        const std::size_t length =
            std::min<std::size_t>(number(std::span(answer).subspan(4, 2)), answer.size() - 6);
        return {reinterpret_cast<const char*>(answer.data()) + 6, length};
    }
    /// Also after a failure, so that the TPM does not run out of places.
    void flush(std::uint32_t handle) {
        const std::string before = std::exchange(failure, "");
        Bytes parameters;
        put32(parameters, handle);
        if (handle != 0) run("FlushContext", 0x165, {}, false, parameters, 0);
        if (!before.empty()) failure = before;
    }
    void extend_pcr() {
        Bytes digest;
        put32(digest, 1);
        put16(digest, sha256);
        digest.resize(digest.size() + sha256_bytes, std::byte(0x5a));
        run("PCR_Extend", 0x182, {pcr_of_applications}, true, digest, 0);
    }
    Bytes read_pcr() {
        Bytes selection;
        put32(selection, 1);
        put16(selection, sha256);
        for (const int part : {3, 0, 0, 1}) selection.push_back(std::byte(part));
        // Its last 32 bytes are the digest.
        Bytes answer = run("PCR_Read", 0x17e, {}, false, selection, sha256_bytes);
        answer.erase(answer.begin(), answer.end() - static_cast<std::ptrdiff_t>(sha256_bytes));
        return answer;
    }

    std::string failure;

private:
    static std::uint32_t handle_in(const Bytes& answer) {
        return number(std::span(answer).first(4));
    }
    int fd_;
};

}  // namespace

std::string Tpm::seal(const std::string& text) {
    const std::lock_guard lock(mutex_);
    Device device;
    const std::uint32_t key = device.create_primary();
    sealed_ = device.create_sealed(key, text);
    device.flush(key);
    device.extend_pcr();
    pcr_ = device.read_pcr();
    return device.failure;
}

Tpm::Unsealed Tpm::unseal() {
    const std::lock_guard lock(mutex_);
    Device device;
    const std::uint32_t key = device.create_primary();
    const std::uint32_t item = device.load(key, sealed_);
    Unsealed found;
    found.text = device.unseal(item);
    device.flush(item);
    device.flush(key);
    found.same_pcr = device.read_pcr() == pcr_;
    found.failure = device.failure;
    return found;
}

}  // namespace witness
