#!/usr/bin/python3
"""A mobile node of RFC 6275 for tests, away from its home link. Written from the RFCs, with scapy.

usage: mobile_node.py SOCKET INTERFACE HOME AGENT [IPV4-CARE-OF IPV4-AGENT]

It listens on the unix socket SOCKET: a line of JSON is a command, and the answer is a line of JSON.
In the background it answers ICMP echo requests that come through the tunnel for HOME, through the
tunnel, from the care-of address at which they came. The kernel of its namespace must not see what it
receives (nftables), and care-of addresses are addresses of INTERFACE.

With IPV4-CARE-OF it is in an IPv4 network (RFC 5555): updates and their answers are in UDP 4191, and data is in UDP if
the home agent said that there is a NAT, else in IPv4 at once (protocol 41).
"""

import json
import queue
import socket
import struct
import sys
import threading
import time

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (HAO, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt,
                                IPv6ExtHdrFragment, IPv6ExtHdrRouting, MIP6MH_BA, MIP6MH_BE, MIP6MH_BRR, MIP6MH_BU,
                                MIP6OptAltCoA, MIP6OptUnknown, defragment6, fragment6)
from scapy.packet import Raw

OUTER_MTU = 1500
INNER_MTU = OUTER_MTU - 40


def checksum(source, destination, message):
    """Of a Mobility Header, with its field as it is: 0 if that is right (RFC 6275 6.1.1)."""
    data = (socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination) +
            struct.pack("!II", len(message), 135) + message)
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class MobileNode:
    def __init__(self, interface, home, agent, care_of4=None, agent4=None):
        self.home = home
        self.agent = agent
        self.answers = queue.Queue()  # Mobility Headers from the home agent
        self.replies = queue.Queue()  # echo replies to the home address
        self.too_big = queue.Queue()  # MTUs in Packet Too Big messages to the home address
        self.counts = {"tunnelled": 0, "outer_fragments": 0, "largest_inner": 0, "in_udp": 0, "in_ipv4": 0}
        self.outer_parts = {}
        self.inner_parts = {}
        self.out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        self.receiver.bind((interface, 0x86DD))
        threading.Thread(target=self.receive, daemon=True).start()
        self.nat = False
        if care_of4:
            self.care_of4 = care_of4
            self.agent4 = agent4
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((care_of4, 4191))
            self.protocol41 = socket.socket(socket.AF_INET, socket.SOCK_RAW, 41)
            self.protocol41.bind((care_of4, 0))
            for one, header in ((self.udp, 0), (self.protocol41, 20)):
                threading.Thread(target=self.receive_ipv4, args=(one, header), daemon=True).start()

    def receive_ipv4(self, receiver, header):
        while True:
            data, sender = receiver.recvfrom(65535)
            if sender[0] != self.agent4:
                continue
            packet = IPv6(data[header:])
            if packet.nh in (43, 135) and packet.src == self.agent:
                self.signalling(packet)
            else:
                self.counts["in_udp" if receiver is self.udp else "in_ipv4"] += 1
                self.inner(None, packet)

    def send(self, packet):
        data = bytes(packet)
        self.out.sendto(data, (packet[IPv6].dst, 0, 0, 0))

    # ---- what arrives ---------------------------------------------------------------------------

    def receive(self):
        while True:
            frame, where = self.receiver.recvfrom(65535)
            if where[2] == socket.PACKET_OUTGOING:
                continue
            try:
                self.outer(IPv6(frame[14:]))
            except Exception as error:  # a test must see it
                print("receive:", repr(error), file=sys.stderr, flush=True)

    def outer(self, packet):
        packet = IPv6(bytes(packet)[:40 + packet.plen])
        if packet.src != self.agent:
            return
        if packet.nh == 44:
            self.counts["outer_fragments"] += 1
            whole = self.joined(self.outer_parts, packet)
            if whole is not None:
                self.outer(whole)
        elif packet.nh == 41:
            self.counts["tunnelled"] += 1
            self.inner(packet.dst, IPv6(bytes(packet)[40:]))
        elif packet.nh == 4:
            self.counts["tunnelled"] += 1
            self.inner4(packet.dst, IP(bytes(packet)[40:]))
        elif packet.nh in (43, 135):
            self.signalling(packet)

    @staticmethod
    def joined(parts, packet):
        """The whole packet, when its last fragment is there."""
        number = packet[IPv6ExtHdrFragment].id
        mine = parts.setdefault(number, [])
        mine.append(packet)
        mine.sort(key=lambda one: one[IPv6ExtHdrFragment].offset)
        at = 0
        for one in mine:
            if one[IPv6ExtHdrFragment].offset * 8 != at:
                return None
            at += one.plen - 8
        if mine[-1][IPv6ExtHdrFragment].m:
            return None
        return IPv6(bytes(defragment6(parts.pop(number))))

    def signalling(self, packet):
        """RFC 6275 6.4, 9.5.4: from the home agent, with the home address in a type 2 routing header."""
        found = {"to": packet.dst, "routing_home": None}
        final = packet.dst
        message = bytes(packet)[40:]
        if packet.nh == 43:
            routing = packet[IPv6ExtHdrRouting]
            found["routing_type"] = routing.type
            found["segments_left"] = routing.segleft
            final = found["routing_home"] = routing.addresses[0]
            message = message[8 * (routing.len + 1):]
        found["checksum_right"] = checksum(packet.src, final, message) == 0
        for layer, name in ((MIP6MH_BA, "acknowledgement"), (MIP6MH_BE, "error"), (MIP6MH_BRR, "refresh_request")):
            if layer not in packet:
                continue
            found["message"] = name
            if name != "refresh_request":
                found["status"] = packet[layer].status
            if name == "acknowledgement":
                found.update(sequence=packet[layer].seq, lifetime=packet[layer].mhtime)
                for option in packet[layer].options:
                    if option.otype == 30:  # RFC 5555 3.2.1
                        data = bytes(option)
                        found["ipv4_status"] = data[2]
                        found["ipv4_home"] = socket.inet_ntoa(data[4:8])
                    if option.otype == 31:  # RFC 5555 3.2.2
                        found["nat"] = True
            found["at"] = time.time()
            self.answers.put(found)

    def inner(self, care_of, packet):
        self.counts["largest_inner"] = max(self.counts["largest_inner"], len(packet))
        if packet.nh == 44:
            packet = self.joined(self.inner_parts, packet)
            if packet is None:
                return
        if ICMPv6PacketTooBig in packet:  # first: it contains a part of the packet that it is about
            self.too_big.put(packet[ICMPv6PacketTooBig].mtu)
        elif ICMPv6EchoRequest in packet:
            request = packet[ICMPv6EchoRequest]
            answer = ICMPv6EchoReply(id=request.id, seq=request.seq, data=request.data)
            self.tunnel(care_of, IPv6(src=self.home, dst=packet.src, hlim=64) / answer)
        elif ICMPv6EchoReply in packet:
            self.replies.put(packet[ICMPv6EchoReply].seq)

    def inner4(self, care_of, packet):
        if ICMP in packet and packet[ICMP].type == 8:
            request = packet[ICMP]
            answer = IP(src=packet.dst, dst=packet.src) / ICMP(type=0, id=request.id, seq=request.seq) / request.payload
            self.send(IPv6(src=care_of, dst=self.agent, nh=4) / Raw(bytes(answer)))

    def tunnel(self, care_of, packet):
        """Reverse tunnelling (RFC 6275 11.3.1). A packet that does not fit is fragmented as a host does it."""
        parts = [packet]
        if len(packet) > INNER_MTU:
            number = int(time.time() * 1000) % 2**32
            header = IPv6(src=packet.src, dst=packet.dst, hlim=64) / IPv6ExtHdrFragment(id=number)
            parts = fragment6(header / packet.payload, INNER_MTU)
        for one in parts:
            if care_of is None:
                self.send_ipv4(bytes(one))
                continue
            self.send(IPv6(src=care_of, dst=self.agent, nh=41) / Raw(bytes(one)))

    def send_ipv4(self, data):
        if self.nat:
            self.udp.sendto(data, (self.agent4, 4191))
        else:
            self.protocol41.sendto(data, (self.agent4, 0))

    # ---- commands -------------------------------------------------------------------------------

    def next_answer(self, wait_s):
        try:
            return self.answers.get(timeout=wait_s)
        except queue.Empty:
            return {"message": None}

    def update(self, care_of, sequence, lifetime, home=None, flags="AH", home4=None, wait_s=5, alternate=None,
               damage=False):
        """A Binding Update (6.1.7), and what comes back. `lifetime` in units of 4 s."""
        home = home or self.home
        options = [MIP6OptAltCoA(acoa=alternate or care_of)]
        if home4:  # RFC 5555 3.1.1: prefix length 32 in the first six bits
            options.append(MIP6OptUnknown(otype=29, olen=6, odata=b"\x80\x00" + socket.inet_aton(home4)))
        message = MIP6MH_BU(seq=sequence, flags=flags, mhtime=lifetime, options=options)
        packet = IPv6(src=care_of, dst=self.agent) / IPv6ExtHdrDestOpt(options=[HAO(hoa=home)]) / message
        data = bytearray(bytes(packet))
        if damage:
            data[-1] ^= 1
        sent = time.time()
        self.out.sendto(bytes(data), (self.agent, 0, 0, 0))
        answer = self.next_answer(wait_s)
        if answer["message"]:
            answer["after_ms"] = round((answer["at"] - sent) * 1000, 3)
        return answer

    def update4(self, sequence, lifetime, wait_s=5):
        """The same over IPv4 (RFC 5555 4.1): from the home address, with the IPv4 care-of address in option 32."""
        options = [MIP6OptUnknown(otype=32, olen=6, odata=b"\0\0" + socket.inet_aton(self.care_of4))]
        message = MIP6MH_BU(seq=sequence, flags="AH", mhtime=lifetime, options=options)
        self.udp.sendto(bytes(IPv6(src=self.home, dst=self.agent) / message), (self.agent4, 4191))
        answer = self.next_answer(wait_s)
        self.nat = answer.get("nat", False)
        return answer

    def answer(self, wait_s):
        return self.next_answer(wait_s)

    def ping(self, to, care_of=None, source=None, size=56, wait_s=3, sequence=1, hop_limit=64):
        """An echo request through the tunnel, and whether its answer came back through it."""
        while not self.replies.empty():
            self.replies.get()
        request = ICMPv6EchoRequest(id=77, seq=sequence, data=b"x" * size)
        packet = IPv6(src=source or self.home, dst=to, hlim=hop_limit) / request
        if care_of is None:
            self.send_ipv4(bytes(packet))
        else:
            self.send(IPv6(src=care_of, dst=self.agent, nh=41) / Raw(bytes(packet)))
        try:
            return {"answered": self.replies.get(timeout=wait_s) == sequence}
        except queue.Empty:
            return {"answered": False}

    def told_mtu(self, wait_s):
        try:
            return {"mtu": self.too_big.get(timeout=wait_s)}
        except queue.Empty:
            return {"mtu": None}

    def status(self):
        return self.counts


def main():
    path = sys.argv[1]
    node = MobileNode(*sys.argv[2:])
    commands = {"update": node.update, "update4": node.update4, "answer": node.answer, "ping": node.ping,
                "told_mtu": node.told_mtu, "status": node.status}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        client, _ = listener.accept()
        with client, client.makefile("rw") as lines:
            for line in lines:
                words = json.loads(line)
                answer = commands[words.pop("do")](**words)
                print(json.dumps(answer), file=lines, flush=True)


main()
