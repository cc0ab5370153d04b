// CertificateAuthority: a certificate authority of one test. It issues certificates in QEMU's
// directory layout, made with certtool as an administrator makes them. Used by Scene and the vm
// tests. Invariant: a certificate is valid for the addresses of one host only.
#pragma once

#include "tests/support/lab.hpp"

namespace lab {

class CertificateAuthority {
public:
    /// Creates its key and certificate under `directory`.
    explicit CertificateAuthority(fs::path directory);

    /// Writes ca-cert.pem and {server,client}-{cert,key}.pem into `directory`, for `--tls-dir` on
    /// that host.
    void issue(fs::path const& directory, Host const& host) const;

private:
    void issue_one(fs::path const& directory, std::string const& what, Host const& host) const;
    fs::path directory_;
};

}  // namespace lab
