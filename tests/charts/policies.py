"""What the NetworkPolicies of a render let through, worked out as a network plugin would."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from tests.charts.conftest import Manifest


@dataclass(frozen=True)
class Place:
    """Where a packet goes or comes from: a pod by its namespace and labels, else an address outside the cluster."""

    address: str = ""
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    namespace_labels: dict[str, str] = field(default_factory=dict)
    """Beyond its name, which the API server sets."""


def egress_allowed(policies: list[Manifest], pod: Manifest, to: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether `pod` (a pod or a pod template, with its namespace) may send to `to`."""
    namespace = pod["metadata"].get("namespace", "flotilla")
    mine = [each for each in policies if _selects(each["spec"]["podSelector"], pod["metadata"]["labels"])]
    limited = [each["spec"] for each in mine if "Egress" in each["spec"]["policyTypes"]]
    if not limited:
        return True
    return any(
        _port_matches(rule, port, protocol) and any(_is_at(peer, to, namespace) for peer in rule["to"])
        for spec in limited
        for rule in spec.get("egress", [])
    )


def ingress_allowed(policies: list[Manifest], pod: Manifest, source: Place) -> bool:
    """Whether `source` may send to any port of `pod` (a pod or a pod template, with its namespace)."""
    namespace = pod["metadata"].get("namespace", "flotilla")
    mine = [each for each in policies if _selects(each["spec"]["podSelector"], pod["metadata"]["labels"])]
    limited = [each["spec"] for each in mine if "Ingress" in each["spec"]["policyTypes"]]
    rules = [rule for spec in limited for rule in spec.get("ingress") or []]
    return not limited or any(
        not rule.get("from") or any(_is_at(peer, source, namespace) for peer in rule["from"]) for rule in rules
    )


def _port_matches(rule: Manifest, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in ports)


def _is_at(peer: Manifest, to: Place, namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        return bool(to.address) and _inside(block, to.address)
    if to.address:
        return False
    if "namespaceSelector" in peer:
        labels = {**to.namespace_labels, "kubernetes.io/metadata.name": to.namespace}
        named = _selects(peer["namespaceSelector"], labels)
    else:
        named = to.namespace == namespace
    return named and _selects(peer.get("podSelector", {}), to.labels)


def _inside(block: Manifest, address: str) -> bool:
    """Addresses of another family are in no block."""
    target, network = _on_the_wire(address), ip_network(block["cidr"])
    excepted = [ip_network(each) for each in block.get("except", [])]
    assert all(each != network and each[0] in network and each[-1] in network for each in excepted), (
        "the API server refuses an exception that is no strict subset of its block"
    )
    assert not any(isinstance(each[0], IPv6Address) and each[0].ipv4_mapped for each in excepted), (
        "the API server reads ::ffff:0:0/96 as addresses of IPv4, which are outside the block"
    )
    return target in network and not any(target in each for each in excepted)


def _on_the_wire(address: str) -> IPv4Address | IPv6Address:
    """A socket sends to `::ffff:10.1.2.3` as IPv4."""
    target = ip_address(address)
    return (target.ipv4_mapped or target) if isinstance(target, IPv6Address) else target


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
