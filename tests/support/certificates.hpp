// CertificateAuthority: an authority of a test's own that issues certificates in QEMU's directory
// layout, made with certtool as an administrator makes them. Used by Scene and the vm tests.
// Invariant: what it issued is valid for the addresses of one host only.
#pragma once

#include "tests/support/lab.hpp"

namespace lab {

class CertificateAuthority {
public:
    /// Makes its key and certificate below `directory`.
    explicit CertificateAuthority(fs::path directory);

    /// ca-cert.pem, {server,client}-{cert,key}.pem in `directory`: what `--tls-dir` of that host
    /// takes.
    void issue(fs::path const& directory, Host const& host) const;

private:
    void issue_one(fs::path const& directory, std::string const& what, Host const& host) const;
    fs::path directory_;
};

}  // namespace lab
