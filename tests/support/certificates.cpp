#include "tests/support/certificates.hpp"

#include <sys/stat.h>

namespace lab {

namespace {

/// Longer than any test takes.
constexpr char const* validity = "expiration_days = 2\n";

void make_key(fs::path const& key) {
    must_run({"certtool", "--generate-privkey", "--key-type=ecdsa", "--curve=secp256r1",
              "--outfile", key});
    chmod(key.c_str(), 0600);
}

}  // namespace

CertificateAuthority::CertificateAuthority(fs::path directory) : directory_(std::move(directory)) {
    fs::create_directories(directory_);
    make_key(directory_ / "ca-key.pem");
    write_file(directory_ / "ca.info",
               std::string("cn = lab authority\nca\ncert_signing_key\n") + validity);
    must_run({"certtool", "--generate-self-signed", "--load-privkey", directory_ / "ca-key.pem",
              "--template", directory_ / "ca.info", "--outfile", directory_ / "ca-cert.pem"});
}

void CertificateAuthority::issue(fs::path const& directory, Host const& host) const {
    fs::create_directories(directory);
    fs::copy_file(directory_ / "ca-cert.pem", directory / "ca-cert.pem");
    issue_one(directory, "server", host);
    issue_one(directory, "client", host);
}

void CertificateAuthority::issue_one(fs::path const& directory, std::string const& what,
                                     Host const& host) const {
    auto const key = directory / (what + "-key.pem");
    auto const info = directory_ / (what + "-" + host.name + ".info");
    make_key(key);
    auto text = fmt::format("cn = host-{}\n{}signing_key\ntls_www_{}\nip_address = {}\n", host.name,
                            validity, what, host.ip4);
    if (!host.ip6.empty()) text += "ip_address = " + host.ip6 + "\n";
    write_file(info, text);
    must_run({"certtool", "--generate-certificate", "--load-privkey", key, "--load-ca-certificate",
              directory_ / "ca-cert.pem", "--load-ca-privkey", directory_ / "ca-key.pem",
              "--template", info, "--outfile", directory / (what + "-cert.pem")});
}

}  // namespace lab
