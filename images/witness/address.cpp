// Gives an interface its addresses and routes: a few rtnetlink requests, each acknowledged.
#include "errors.hpp"
#include "network.hpp"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <vector>

namespace witness {
namespace {

struct Address {
    int family = 0;
    std::vector<unsigned char> bytes; // 4 or 16
    std::uint8_t prefix = 0;
};

// An address in text, with or without /prefix; family 0 if it is not an address.
Address parse_address(const std::string& text) {
    const std::size_t slash = text.find('/');
    const std::string host = text.substr(0, slash);
    Address address;
    address.family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
    address.bytes.resize(address.family == AF_INET ? 4 : 16);
    address.prefix = static_cast<std::uint8_t>(address.bytes.size() * 8);
    bool good = inet_pton(address.family, host.c_str(), address.bytes.data()) == 1;
    if (slash != std::string::npos) {
        const char* begin = text.data() + slash + 1;
        const char* end = text.data() + text.size();
        std::uint8_t prefix = 0;
        const auto [at, error] = std::from_chars(begin, end, prefix);
        good = good && error == std::errc{} && at == end && prefix <= address.prefix;
        address.prefix = prefix;
    }
    if (!good) address.family = 0;
    return address;
}

// One request being built; attributes follow the family header.
class Request {
public:
    template <class Body>
    Request(std::uint16_t type, std::uint16_t flags, const Body& body) {
        nlmsghdr head{};
        head.nlmsg_type = type;
        head.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
        append(&head, sizeof head);
        append(&body, sizeof body);
    }

    Request& attribute(std::uint16_t type, const void* data, std::size_t bytes) {
        const rtattr head{static_cast<std::uint16_t>(RTA_LENGTH(bytes)), type};
        append(&head, sizeof head);
        append(data, bytes);
        return *this;
    }

    // Sends it and waits for the kernel's answer: 0 or an errno.
    int send() {
        auto length = static_cast<std::uint32_t>(bytes_.size());
        std::memcpy(bytes_.data(), &length, sizeof length); // nlmsg_len is the first field
        const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        if (fd < 0) return errno;
        int error = EIO;
        std::vector<char> reply(8192);
        if (::send(fd, bytes_.data(), bytes_.size(), 0) >= 0 &&
            recv(fd, reply.data(), reply.size(), 0) >=
                static_cast<ssize_t>(NLMSG_LENGTH(sizeof(int)))) {
            nlmsgerr answer{};
            std::memcpy(&answer, reply.data() + NLMSG_HDRLEN, sizeof answer);
            error = -answer.error;
        }
        close(fd);
        return error;
    }

private:
    void append(const void* data, std::size_t bytes) {
        const auto* from = static_cast<const char*>(data);
        bytes_.insert(bytes_.end(), from, from + bytes);
        bytes_.resize((bytes_.size() + 3U) & ~std::size_t{3});
    }

    std::vector<char> bytes_;
};

void write_sysctl(const std::string& path, const char* value) {
    std::ofstream("/proc/sys/net/" + path) << value;
}

int set_up(int index, std::uint32_t mtu) {
    ifinfomsg body{};
    body.ifi_family = AF_UNSPEC;
    body.ifi_index = index;
    body.ifi_flags = IFF_UP;
    body.ifi_change = IFF_UP;
    Request request(RTM_NEWLINK, 0, body);
    if (mtu != 0) request.attribute(IFLA_MTU, &mtu, sizeof mtu);
    return request.send();
}

int add_address(int index, const Address& address) {
    ifaddrmsg body{};
    body.ifa_family = static_cast<std::uint8_t>(address.family);
    body.ifa_prefixlen = address.prefix;
    body.ifa_flags = IFA_F_NODAD | IFA_F_PERMANENT;
    body.ifa_index = static_cast<std::uint32_t>(index);
    Request request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body);
    request.attribute(IFA_LOCAL, address.bytes.data(), address.bytes.size());
    request.attribute(IFA_ADDRESS, address.bytes.data(), address.bytes.size());
    return request.send();
}

int add_default_route(int index, const Address& gateway) {
    rtmsg body{};
    body.rtm_family = static_cast<std::uint8_t>(gateway.family);
    body.rtm_table = RT_TABLE_MAIN;
    body.rtm_protocol = RTPROT_STATIC;
    body.rtm_scope = RT_SCOPE_UNIVERSE;
    body.rtm_type = RTN_UNICAST;
    body.rtm_flags = RTNH_F_ONLINK;
    Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body);
    request.attribute(RTA_GATEWAY, gateway.bytes.data(), gateway.bytes.size());
    request.attribute(RTA_OIF, &index, sizeof index);
    return request.send();
}

std::string interface_with(const std::string& mac) {
    DIR* directory = opendir("/sys/class/net");
    if (directory == nullptr) return {};
    std::string found;
    while (const dirent* entry = readdir(directory)) {
        std::string address;
        std::ifstream(std::string("/sys/class/net/") + entry->d_name + "/address") >> address;
        if (strcasecmp(address.c_str(), mac.c_str()) == 0) found = entry->d_name;
    }
    closedir(directory);
    return found;
}

void complain(const std::string& name, const std::string& what, int error) {
    errors().add(Kind::setup, name + ": " + what + ": " + std::strerror(error));
}

} // namespace

void configure(const NetSettings& net) {
    const std::string name = net.mac.empty() ? net.name : interface_with(net.mac);
    const int index = static_cast<int>(if_nametoindex(name.c_str()));
    if (name.empty() || index == 0) {
        errors().add(Kind::setup, "no network interface " + (net.mac.empty() ? net.name : net.mac));
        return;
    }
    const std::string ipv6 = "ipv6/conf/" + name + "/";
    write_sysctl(ipv6 + "accept_dad", "0");
    write_sysctl(ipv6 + "accept_ra", net.ra ? "2" : "0");
    write_sysctl(ipv6 + "autoconf", net.ra ? "1" : "0");
    if (net.ip6.empty() && !net.ra) write_sysctl(ipv6 + "disable_ipv6", "1");
    if (const int error = set_up(index, net.mtu); error != 0)
        complain(name, "cannot be set up", error);

    std::vector<std::string> texts = net.ip4;
    texts.insert(texts.end(), net.ip6.begin(), net.ip6.end());
    for (const std::string& text : texts) {
        const Address address = parse_address(text);
        const int error = address.family == 0 ? EINVAL : add_address(index, address);
        if (error != 0) complain(name, "address " + text, error);
    }
    for (const std::string& text : {net.gw4, net.gw6}) {
        if (text.empty()) continue;
        const Address gateway = parse_address(text);
        const int error = gateway.family == 0 ? EINVAL : add_default_route(index, gateway);
        if (error != 0) complain(name, "gateway " + text, error);
    }
}

void configure_loopback() {
    if (const int error = set_up(static_cast<int>(if_nametoindex("lo")), 0); error != 0)
        complain("lo", "cannot be set up", error);
}

} // namespace witness
