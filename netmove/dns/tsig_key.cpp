#include "netmove/dns/tsig_key.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "core/base64.hpp"
#include "core/fd.hpp"
#include "netmove/dns/ldns.hpp"

namespace netmove::dns {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr char const* as_printed =
    "as `tsig-keygen NAME` prints it: key \"NAME\" { algorithm hmac-sha256; secret \"BASE64\"; };";

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string lower_case(std::string_view text) {
    std::string lower(text);
    for (auto& c : lower) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return lower;
}

/// The words of a configuration file of BIND: `{`, `}` and `;` are words, quotes are removed.
class Words {
public:
    explicit Words(std::string_view text) : rest_(text) {}

    /// The next word; none at the end, or if a quote or a comment does not end.
    std::optional<std::string> next() {
        if (!skip_to_word() || rest_.empty()) return std::nullopt;
        if (rest_.front() == '"') return quoted();
        if (is_sign(rest_.front())) return take(1);
        std::size_t length = 0;
        while (length < rest_.size() && !is_space(rest_[length]) && !is_sign(rest_[length]) &&
               rest_[length] != '"') {
            ++length;
        }
        return take(length);
    }
    [[nodiscard]] bool at_end() { return skip_to_word() && rest_.empty(); }

private:
    static bool is_sign(char c) { return c == '{' || c == '}' || c == ';'; }
    std::string take(std::size_t length) {
        std::string word(rest_.substr(0, length));
        rest_.remove_prefix(length);
        return word;
    }
    std::optional<std::string> quoted() {
        auto const end = rest_.find('"', 1);
        if (end == std::string_view::npos) return std::nullopt;
        std::string word(rest_.substr(1, end - 1));
        rest_.remove_prefix(end + 1);
        return word;
    }
    bool skip_past(std::string_view end) {
        auto const at = rest_.find(end);
        if (at == std::string_view::npos) return false;
        rest_.remove_prefix(at + end.size());
        return true;
    }
    /// False if a comment does not end.
    bool skip_to_word() {
        while (!rest_.empty()) {
            if (is_space(rest_.front())) {
                rest_.remove_prefix(1);
            } else if (rest_.starts_with("/*")) {
                rest_.remove_prefix(2);
                if (!skip_past("*/")) return false;
            } else if (rest_.starts_with("//") || rest_.starts_with('#')) {
                if (!skip_past("\n")) rest_ = {};
            } else {
                return true;
            }
        }
        return true;
    }

    std::string_view rest_;
};

Result<TsigAlgorithm> algorithm_of(std::string const& word) {
    for (auto const algorithm : {TsigAlgorithm::hmac_sha256, TsigAlgorithm::hmac_sha512}) {
        if (lower_case(word) == name(algorithm)) return algorithm;
    }
    return fail(Errc::refused,
                "the key's algorithm is `{}`, but only hmac-sha256 and hmac-sha512 are supported",
                word);
}

Result<std::string> secret_of(std::string const& word) {
    auto const bytes = core::from_base64(word);
    if (!bytes) return fail(Errc::refused, "the key's secret is not base64");
    if (bytes->size() < secret_bytes_min || bytes->size() > secret_bytes_max) {
        return fail(Errc::refused, "the key's secret has {} bytes, not {} to {}", bytes->size(),
                    secret_bytes_min, secret_bytes_max);
    }
    return core::to_base64(*bytes);
}

}  // namespace

std::string_view name(TsigAlgorithm algorithm) {
    switch (algorithm) {
        case TsigAlgorithm::hmac_sha256:
            return "hmac-sha256";
        case TsigAlgorithm::hmac_sha512:
            return "hmac-sha512";
    }
    return "?";
}

Result<std::string> absolute_name(std::string_view text) {
    auto lower = lower_case(text);
    if (!lower.ends_with('.')) lower += '.';
    bool const plain =
        lower.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") == std::string::npos;
    TRY_VOID(load_ldns());
    ldns_rdf* parsed = nullptr;
    bool const fits = plain && lower.size() > 1 && !lower.starts_with('.') &&
                      lower.find("..") == std::string::npos &&
                      ldns_str2rdf_dname(&parsed, lower.c_str()) == LDNS_STATUS_OK;
    ldns_rdf_deep_free(parsed);
    if (!fits) {
        return fail(Errc::invalid, "`{}` is not a name in the DNS, like web1.example.org", text);
    }
    return lower;
}

Result<TsigKey> parse_tsig_key(std::string_view text) {
    auto const malformed = fail(Errc::refused, "it is not one TSIG key, {}", as_printed);
    Words words(text);
    if (words.next() != "key") return malformed;
    auto const key_name = words.next();
    if (!key_name || words.next() != "{") return malformed;
    std::optional<std::string> algorithm;
    std::optional<std::string> secret;
    for (auto word = words.next(); word != "}"; word = words.next()) {
        auto* const into = word == "algorithm" ? &algorithm : word == "secret" ? &secret : nullptr;
        if (into == nullptr || *into) return malformed;
        *into = words.next();
        if (!*into || words.next() != ";") return malformed;
    }
    if (!algorithm || !secret || words.next() != ";" || !words.at_end()) return malformed;
    auto const absolute = absolute_name(*key_name);
    if (!absolute) return fail(Errc::refused, "{}", absolute.error().what);
    TRY(auto const known, algorithm_of(*algorithm));
    TRY(auto checked, secret_of(*secret));
    return TsigKey{*absolute, known, std::move(checked)};
}

Result<TsigKey> read_tsig_key(std::string const& path) {
    core::Fd const file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (!file || ::fstat(file.get(), &status) < 0) {
        return core::fail_os(Errc::refused, errno, "cannot read the TSIG key file " + path);
    }
    if (!S_ISREG(status.st_mode)) {
        return fail(Errc::refused, "the TSIG key file {} is not a regular file", path);
    }
    if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return fail(Errc::refused, "the TSIG key file {} can be read by others: run `chmod 600 {}`",
                    path, path);
    }
    std::array<char, key_file_bytes_max + 1> text{};
    auto const got = ::read(file.get(), text.data(), text.size());
    if (got < 0) {
        return core::fail_os(Errc::refused, errno, "cannot read the TSIG key file " + path);
    }
    if (static_cast<std::size_t>(got) > key_file_bytes_max) {
        return fail(Errc::refused, "the TSIG key file {} has more than {} bytes", path,
                    key_file_bytes_max);
    }
    auto key = parse_tsig_key(std::string_view(text.data(), static_cast<std::size_t>(got)));
    if (!key) return fail(Errc::refused, "the TSIG key file {}: {}", path, key.error().what);
    return key;
}

}  // namespace netmove::dns
