"""``python -m tests.rig.crowd HOST PORT COUNT peer|manager``: many connections from one address.

Says on one line of JSON how many were let ``inside``, and the last sentence by which one was
``refused``; keeps them until its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import sys

from p2pd.wire import messages as m
from tests.rig.raw import Closed, Raw


def main() -> None:
    host, port, count, kind = sys.argv[1:]
    table = m.MANAGER_TO_PEER if kind == "manager" else m.PEER_TO_PEER
    inside: list[Raw] = []
    refused = ""
    for number in range(int(count)):
        raw = Raw(int(port), host, table)
        try:
            if kind == "manager":
                raw.send(m.NewPeer(*m.VERSION, raw.id, f"crowd {number}", 7001, ["0.0.0.0"], "", ""))
                raw.expect(m.Welcome)
            else:
                raw.hello()
            inside.append(raw)
        except (AssertionError, Closed) as error:
            refused = str(error) or refused
    print(json.dumps({"inside": len(inside), "refused": refused}), flush=True)
    sys.stdin.read()
    for raw in inside:
        with contextlib.suppress(OSError):
            raw.close()


if __name__ == "__main__":
    main()
