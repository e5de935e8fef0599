"""Random flows that use every match field and every action the codec makes, each valid for a switch.

For comparing what is sent with what a switch holds; the packets they mean make no sense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from flowloom.openflow import actions, facts
from flowloom.openflow.fields import (
    CT_LABEL,
    CT_MARK,
    CT_STATE,
    FIELDS,
    REGS,
    VLAN_PCP,
    VLAN_VID,
    Field,
)
from flowloom.openflow.match import Term, encode_match

_IP4: Final = {"eth_type": 0x0800}
_IP6: Final = {"eth_type": 0x86DD}
_KINDS: Final[Sequence[tuple[dict[str, int], str]]] = (
    ({}, ""),
    ({"eth_type": 0x88CC}, ""),
    (_IP4, "ip_src ip_dst ip_frag ip_dscp ip_ttl"),
    ({**_IP4, "ip_proto": 47}, "ip_src ip_dst ip_dscp"),
    ({**_IP4, "ip_proto": 6}, "ip_src ip_dst ip_dscp ip_ttl tcp_src tcp_dst"),
    ({**_IP4, "ip_proto": 17}, "ip_src ip_dst ip_dscp ip_ttl udp_src udp_dst"),
    ({**_IP4, "ip_proto": 1}, "ip_src ip_dst icmp_type icmp_code"),
    (_IP6, "ip6_src ip6_dst ip_frag ip_dscp ip_ttl"),
    ({**_IP6, "ip_proto": 6}, "ip6_src ip6_dst tcp_src tcp_dst"),
    ({**_IP6, "ip_proto": 17}, "ip6_src ip6_dst udp_src udp_dst"),
    ({**_IP6, "ip_proto": 58}, "ip6_src ip6_dst icmp6_type icmp6_code"),
    ({**_IP6, "ip_proto": 58, "icmp6_type": 135}, "ip6_src nd_target nd_sll"),
    ({**_IP6, "ip_proto": 58, "icmp6_type": 136, "icmp6_code": 0}, "ip6_src nd_target nd_tll"),
    ({"eth_type": 0x0806}, "arp_op arp_spa arp_tpa arp_sha arp_tha"),
)
_ANYWHERE: Final = (
    *("conj_id", "in_port", "eth_src", "eth_dst", "vlan_vid", "vlan_pcp", "tun_id", "tun_src", "tun_dst", "pkt_mark"),
    *("ct_state", "ct_zone", "ct_mark", "ct_label", "metadata", "xxreg0", "xxreg3", "xreg1", "xreg7"),
    *("reg0", "reg1", "reg2", "reg7", "reg14", "reg15"),
)
_WRITABLE: Final = (
    *("eth_src", "eth_dst", "tun_id", "tun_src", "tun_dst", "pkt_mark", "metadata"),
    *("xreg0", "xreg5", "xxreg0", "xxreg2", *(field.name for field in REGS)),
)
_WRITABLE_WHEN_MATCHED: Final = frozenset(
    field.name for field in FIELDS.values() if field.needs and field.name not in ("ip_frag", "ip_proto")
)

_CT_INVALID: Final = 16

GROUP_IDS: Final = tuple(range(facts.GROUPS_FIRST, facts.GROUPS_FIRST + 4))
METER_ID: Final = 3
"""A meter that must exist on the switch, as `random_group_facts` must."""


def random_flow(random: Random, number: int) -> tuple[bytes, bytes]:
    """Flow number `number` (below 2**16; part of its key, so that numbers give distinct keys)."""
    needs, choices = random.choice(_KINDS)
    terms = {FIELDS[name]: Term(FIELDS[name], value, FIELDS[name].full) for name, value in needs.items()}
    own = choices.split()
    names = random.sample(own, random.randint(0, len(own))) + random.sample(_ANYWHERE, random.randint(0, 5))
    for name in names:
        terms.setdefault(FIELDS[name], _term(random, FIELDS[name]))
    if VLAN_PCP in terms:
        terms[VLAN_VID] = Term(VLAN_VID, 0x1000 | random.getrandbits(12), VLAN_VID.full)
    key = facts.flow_key(random.randrange(200), number, encode_match(_without_contradiction(terms)))
    cookie = facts.make_cookie(random.getrandbits(16), random.getrandbits(32))
    return key, facts.flow_value(cookie, _instructions(random, key[1], terms))


def random_group_facts(random: Random) -> list[tuple[bytes, bytes]]:
    """The groups that random flows send to, with random buckets."""
    made: list[tuple[bytes, bytes]] = []
    for group_id in GROUP_IDS:
        made += random_group(random, group_id, random.randint(0, 5))
    return made


def random_group(random: Random, group_id: int, buckets: int) -> list[tuple[bytes, bytes]]:
    """A group of type all or select with `buckets` buckets."""
    made = [(facts.group_key(group_id), bytes((random.choice((facts.GROUP_ALL, facts.GROUP_SELECT)),)))]
    made += [
        (facts.bucket_key(group_id, bucket_id), random_bucket(random))
        for bucket_id in random.sample(range(0xFFFF_FF00), buckets)
    ]
    return made


def random_bucket(random: Random) -> bytes:
    """The actions of a bucket."""
    some = [_action(random, {}) for _ in range(random.randint(0, 3))]
    return b"".join((*some, actions.output(random.randint(1, 0xFEFF))))


def _term(random: Random, field: Field) -> Term:
    special: dict[str, Callable[[], Term]] = {
        "in_port": lambda: Term(field, random.choice((random.randint(1, 0xFEFF), actions.PORT_LOCAL)), field.full),
        "ct_state": lambda: _masked(field, random.getrandbits(8), random.getrandbits(8) or 0x20),
        "vlan_vid": lambda: _vlan(random),
        "arp_op": lambda: Term(field, random.randint(0, 255), field.full),
        "ip_frag": lambda: _masked(field, random.getrandbits(2), random.choice((1, 2, 3))),
        "icmp6_type": lambda: Term(field, random.choice((1, 128, 129, 134)), field.full),
    }
    if field.name in special:
        return special[field.name]()
    value = _value(random, field)
    if field.maskable and random.random() < 0.5:
        return _masked(field, value, _mask(random, field))
    return Term(field, value, field.full)


def _value(random: Random, field: Field) -> int:
    return random.choice((0, 1, field.full, *(random.getrandbits(field.bits) for _ in range(12))))


def _mask(random: Random, field: Field) -> int:
    """Any bits, a prefix, or one bit."""
    prefix = field.full ^ (field.full >> random.randint(1, field.bits))
    return random.choice((random.getrandbits(field.bits) or 1, prefix, 1 << random.randrange(field.bits)))


def _masked(field: Field, value: int, mask: int) -> Term:
    return Term(field, value & mask, mask)


def _vlan(random: Random) -> Term:
    vid = random.getrandbits(12)
    return random.choice(
        (
            Term(VLAN_VID, 0x1000 | vid, 0x1FFF),
            Term(VLAN_VID, 0, 0x1FFF),
            Term(VLAN_VID, 0x1000, 0x1000),
            Term(VLAN_VID, 0x1000 | vid & 0xFF, 0x10FF),
        )
    )


def _without_contradiction(terms: dict[Field, Term]) -> list[Term]:
    """One view of each register only: a wide one in place of the narrow ones it holds."""
    taken: dict[int, int] = {}
    kept: list[Term] = []
    for field, term in sorted(terms.items(), key=lambda item: -item[0].bits):
        registers = _registers(field)
        if any(register in taken for register in registers):
            continue
        taken.update(dict.fromkeys(registers, 1))
        kept.append(term)
    return kept


def _registers(field: Field) -> range:
    for prefix, width in (("xxreg", 4), ("xreg", 2), ("reg", 1)):
        if field.name.startswith(prefix):
            first = int(field.name.removeprefix(prefix)) * width
            return range(first, first + width)
    return range(0)


def _instructions(random: Random, table: int, terms: dict[Field, Term]) -> bytes:
    if random.random() < 0.05:
        conj_id = random.getrandbits(32)
        clauses = random.randint(2, 64)
        return actions.apply_actions(actions.conjunction(conj_id, random.randint(1, clauses), clauses))
    made = [_action(random, terms) for _ in range(random.randint(0, 6))]
    goto = actions.goto_table(random.randint(table + 1, 250)) if random.random() < 0.5 else b""
    return actions.apply_actions(*made) + goto


def _action(random: Random, terms: dict[Field, Term]) -> bytes:
    ethertype = next((term.value for field, term in terms.items() if field.name == "eth_type"), 0)
    written = [*_WRITABLE, *(_WRITABLE_WHEN_MATCHED & {field.name for field in terms})]
    choices: list[Callable[[], bytes]] = [
        lambda: actions.output(random.choice((random.randint(1, 0xFEFF), actions.PORT_IN, actions.PORT_LOCAL))),
        lambda: _set_field(random, FIELDS[random.choice(written)]),
        lambda: _set_field(random, FIELDS[random.choice(written)]),
        lambda: _copy_field(random, FIELDS[random.choice(written)], FIELDS[random.choice(written)]),
        lambda: actions.resubmit(random.randint(0, 250)),
        lambda: actions.controller2(
            random.randbytes(random.randint(0, 20)),
            random.choice((actions.MAX_LEN_ALL, 128)),
            random.choice((None, METER_ID)),
        ),
        lambda: b"".join(
            (actions.push_vlan(), actions.set_field(VLAN_VID, 0x1000 | random.getrandbits(12)), actions.pop_vlan())
        ),
    ]
    if terms:
        choices.append(lambda: actions.group(random.choice(GROUP_IDS)))
        choices.append(lambda: actions.meter(METER_ID))
    if ethertype in (0x0800, 0x86DD):
        choices.append(actions.dec_ttl)
        if CT_STATE not in terms or not terms[CT_STATE].value & _CT_INVALID:
            choices.append(lambda: _ct(random, ethertype == 0x0800))
    return random.choice(choices)()


def _set_field(random: Random, field: Field) -> bytes:
    if field.name == "arp_op":  # Open vSwitch holds 8 bits of it.
        return actions.set_field(field, random.getrandbits(8))
    mask = _mask(random, field) if field.maskable and random.random() < 0.4 else None
    return actions.set_field(field, _value(random, field), mask)


def _copy_field(random: Random, src: Field, dst: Field) -> bytes:
    bits = random.randint(1, min(src.bits, dst.bits))
    return actions.copy_field(src, dst, bits, random.randint(0, src.bits - bits), random.randint(0, dst.bits - bits))


def _ct(random: Random, ip4: bool) -> bytes:
    commit = random.random() < 0.6
    nested = []
    if commit and random.random() < 0.7:
        nested.append(_set_field(random, random.choice((CT_MARK, CT_LABEL))))
    if random.random() < 0.5:
        nested.append(_nat(random, commit and ip4))
    zone_from = (random.choice(REGS), random.randint(0, 16), 16) if random.random() < 0.4 else None
    return actions.ct(
        b"".join(nested),
        flags=actions.CT_COMMIT | random.choice((0, actions.CT_FORCE)) if commit else 0,
        zone=0 if zone_from else random.getrandbits(16),
        zone_from=zone_from,
        table=random.choice((None, random.randint(0, 250))),
    )


def _nat(random: Random, translate: bool) -> bytes:
    if not translate:
        return actions.nat()
    first, port = random.randrange(1, 1 << 31), random.randint(1, 60_000)
    ip4 = random.choice((None, (first, first), (first, first + 9)))
    ports = random.choice((None, (port, port), (port, port + 9))) if ip4 else None
    flags = random.choice((actions.NAT_SOURCE, actions.NAT_DESTINATION))
    return actions.nat(
        flags | (random.choice((0, actions.NAT_PROTO_HASH, actions.NAT_PROTO_RANDOM)) if ip4 else 0), ip4, ports
    )
