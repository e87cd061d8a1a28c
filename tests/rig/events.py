"""Tells the events of a VM, one a line, until it ends: events.py SOCKET

The first line is "listening": whatever happens from then on is told.
"""

import json
import socket
import sys

monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[1])
monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
for line in monitor.makefile():
    message = json.loads(line)
    if "return" in message:
        print("listening", flush=True)
    elif "event" in message:
        print(message["event"], json.dumps(message.get("data")), flush=True)
