"""Drives a VM of Tern's through qemu.qmp, as a program would that was written for QEMU.

    qmp_client.py SOURCE_SOCKET SOURCE_PID RECEIVER_SOCKET RECEIVER_URI FORSAKEN_URI PANICS_SOCKET ENDS_SOCKET

The source runs a guest with two vCPUs, its console on a pseudo-terminal; at the end the guest runs at the receiver, and
that has been asked to quit. A migration to another receiver is cancelled. The guests of the last two tell pvpanic what is
typed on their consoles, which are pseudo-terminals too. Anything that is not as with QEMU ends the program with an exception.
"""

import asyncio
import os
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient, Runstate

# No answer takes so many seconds.
PATIENCE = 30


class Vm:
    """A client, and what it was told."""

    def __init__(self, name):
        self.client = QMPClient(name)
        self.events = EventListener()
        self.client.register_listener(self.events)

    async def connect(self, socket):
        await self.client.connect(socket)
        return self

    async def ask(self, command, **arguments):
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await asyncio.wait_for(self.client.execute(command, names), PATIENCE)

    async def refused(self, command, **arguments):
        """The error's class and text."""
        try:
            answer = await self.ask(command, **arguments)
        except ExecuteError as error:
            return error.error_class, str(error)
        raise AssertionError(f"{command} {arguments} was not refused: {answer}")

    async def heard(self, name, accept=lambda data: True):
        """The data of the next such event; others before it are passed over, and remembered."""
        before = []
        while True:
            event = await asyncio.wait_for(self.events.get(), PATIENCE)
            assert event["timestamp"]["seconds"] > 1_600_000_000, event
            if event["event"] == name and accept(event.get("data")):
                return event.get("data"), before
            before.append(event)

    async def ended(self):
        """Waits until the VM has closed the connection."""
        while self.client.runstate is not Runstate.DISCONNECTING:
            await asyncio.wait_for(self.client.runstate_changed(), PATIENCE)
        try:
            await self.client.disconnect()
        except EOFError:
            pass


def same(is_, wanted):
    assert is_ == wanted, f"{is_!r} is not {wanted!r}"


def has(text, part):
    assert part in text, f"{part!r} is not in {text!r}"


async def who_it_is(vm, pid):
    greeting = vm.client.greeting.QMP
    has(greeting.version["package"], "tern ")
    same(greeting.capabilities, [])
    same(await vm.ask("query-status"), {"running": True, "status": "running"})
    same(await vm.ask("query-kvm"), {"enabled": True, "present": True})
    identity = (await vm.ask("query-uuid"))["UUID"]
    same(identity, (await vm.ask("x-tern-info"))["vm-id"])

    for index, cpu in enumerate(await vm.ask("query-cpus-fast")):
        same(cpu["cpu-index"], index)
        same(cpu["target"], "x86_64")
        same(cpu["props"], {"socket-id": 0, "core-id": index, "thread-id": 0})
        same(await vm.ask("qom-get", path=cpu["qom-path"], property="apic-id"), index)
        with open(f"/proc/{pid}/task/{cpu['thread-id']}/comm", encoding="ascii") as name:
            same(name.read(), f"vcpu{index}\n")
    same(index, 1)

    [console] = await vm.ask("query-chardev")
    same((console["label"], console["frontend-open"]), ("serial0", True))
    return identity


async def console_of(vm):
    """The console's other end. What is typed may be lost where that is closed before the VM has read it."""
    [console] = await vm.ask("query-chardev")
    return open(console["filename"].removeprefix("pty:"), "r+b", buffering=0, opener=no_terminal)


def no_terminal(path, flags):
    return os.open(path, flags | os.O_NOCTTY)


async def what_there_is(vm):
    [default] = [machine for machine in await vm.ask("query-machines") if machine.get("is-default")]
    same(default["name"], await vm.ask("qom-get", path="/machine", property="type"))
    model = {"name": "x86-64-v2", "props": {"popcnt": False}}
    expanded = (await vm.ask("query-cpu-model-expansion", type="full", model=model))["model"]["props"]
    same((expanded["popcnt"], expanded["sse4.2"]), (False, True))
    commands = {command["name"] for command in await vm.ask("query-commands")}
    assert {"qom-set", "query-cpus-fast", "system_powerdown"} <= commands, commands
    assert "human-monitor-command" not in commands, commands

    described = {entry["name"]: entry for entry in await vm.ask("qom-list", path="/machine/serial0")}
    has(described["iobase"]["description"], "I/O ports")
    of_type = await vm.ask("qom-list-properties", typename="serial16550")
    # What an object has of its own, and its state, are none of its type's.
    same({entry["name"] for entry in of_type}, set(described) - {"clk", "state"})
    of_device = await vm.ask("device-list-properties", typename="serial16550")
    same([entry["default-value"] for entry in of_device if entry["name"] == "iobase"], [0x3F8])


async def what_is_refused(vm):
    same(
        await vm.refused("qom-set", path="/machine/serial0", property="iobase", value=0x2F8),
        ("GenericError", "property 'iobase' of /machine/serial0 can no longer be set: it is fixed once the object is made"),
    )
    same(await vm.ask("qom-get", path="/machine/serial0", property="iobase"), 0x3F8)
    same(await vm.refused("qom-get", path="/nowhere", property="x"), ("DeviceNotFound", "Device '/nowhere' not found"))
    same(
        await vm.refused("device-list-properties", typename="container"),
        ("GenericError", "Parameter 'typename' expects a non-abstract device type"),
    )
    error, text = await vm.refused("human-monitor-command", command_line="info status")
    same(error, "CommandNotFound")
    has(text, "human-monitor-command")
    same(
        await vm.refused("migrate-set-parameters", cpu_throttle_initial=20),
        ("GenericError", "Parameter 'cpu-throttle-initial' is unexpected"),
    )
    wanted = [{"capability": "xbzrle", "state": True}]
    has((await vm.refused("migrate-set-capabilities", capabilities=wanted))[1], "'xbzrle'")


async def stops_and_goes_on(vm):
    await vm.ask("stop")
    await vm.heard("STOP")
    same(await vm.ask("query-status"), {"running": False, "status": "paused"})
    has((await vm.refused("system_powerdown"))[1], "let it go on first")
    await vm.ask("cont")
    await vm.heard("RESUME")
    await vm.ask("system_powerdown")
    await vm.heard("POWERDOWN")
    await vm.ask("system_reset")
    data, _ = await vm.heard("RESET")
    same(data, {"guest": False, "reason": "host-qmp-system-reset"})
    same((await vm.ask("query-status"))["status"], "running")


async def restarts_itself(vm):
    with await console_of(vm) as console:
        # A key that comes before the guest listens is lost on it.
        listens = b""
        while b"ready" not in listens:
            listens += console.read(4096)
        console.write(b"r")
        data, _ = await vm.heard("RESET")
    same(data, {"guest": True, "reason": "guest-reset"})
    same((await vm.ask("query-status"))["status"], "running")


async def does_not_move_to_nobody(vm):
    await vm.ask("migrate", uri="unix:/nowhere/at/all")
    await vm.heard("MIGRATION", lambda data: data["status"] == "setup")
    await vm.heard("MIGRATION", lambda data: data["status"] == "failed")
    account = await vm.ask("query-migrate")
    same(account["status"], "failed")
    has(account["error-desc"], "nobody answers")
    same((await vm.ask("query-status"))["status"], "running")


async def is_called_back(vm, uri):
    """A migration that would take minutes is cancelled, and the guest goes on where it is."""
    await vm.ask("migrate-set-parameters", max_bandwidth=100_000)
    await vm.ask("migrate", uri=uri)
    await vm.heard("MIGRATION", lambda data: data["status"] == "active")
    same(await vm.ask("migrate_cancel"), {})
    _, before = await vm.heard("MIGRATION", lambda data: data["status"] == "cancelled")
    between = {event["data"]["status"] for event in before if event["event"] == "MIGRATION"}
    assert between <= {"cancelling"}, before
    same((await vm.ask("query-migrate"))["status"], "cancelled")
    same(await vm.ask("query-status"), {"running": True, "status": "running"})
    # There is nothing to cancel, which QEMU minds as little.
    same(await vm.ask("migrate_cancel"), {})
    await vm.ask("migrate-set-parameters", max_bandwidth=0)


async def panics(vm):
    with await console_of(vm) as console:
        console.write(b"\x01")
        data, _ = await vm.heard("GUEST_PANICKED")
        same(data, {"action": "poweroff"})
        data, _ = await vm.heard("SHUTDOWN")
    same(data, {"guest": True, "reason": "guest-panic"})
    await vm.ended()


async def switches_itself_off(vm):
    with await console_of(vm) as console:
        console.write(b"\x04")
        data, _ = await vm.heard("SHUTDOWN")
    same(data, {"guest": True, "reason": "guest-shutdown"})
    await vm.ended()


async def moves(vm, uri):
    await vm.ask("migrate-set-capabilities", capabilities=await vm.ask("query-migrate-capabilities"))
    await vm.ask("migrate-set-parameters", downtime_limit=1000)
    same((await vm.ask("query-migrate-parameters"))["downtime-limit"], 1000)
    await vm.ask("migrate", uri=uri)
    _, before = await vm.heard("MIGRATION", lambda data: data["status"] == "completed")
    passes = [event["data"]["pass"] for event in before if event["event"] == "MIGRATION_PASS"]
    same(passes, list(range(1, len(passes) + 1)))
    assert len(passes) > 1, before
    statuses = [event["data"]["status"] for event in before if event["event"] == "MIGRATION"]
    same(statuses, ["setup", "active", "device"])
    assert "STOP" in [event["event"] for event in before], before
    await vm.ended()


async def arrives(vm, identity):
    await vm.heard("RESUME")
    await vm.heard("MIGRATION", lambda data: data["status"] == "completed")
    same((await vm.ask("query-uuid"))["UUID"], identity)
    same(await vm.ask("query-status"), {"running": True, "status": "running"})
    await vm.ask("quit")
    data, _ = await vm.heard("SHUTDOWN")
    same(data, {"guest": False, "reason": "host-qmp-quit"})
    await vm.ended()


async def main(source, pid, receiver, uri, forsaken, panicking, ending):
    vm = await Vm("source").connect(source)
    identity = await who_it_is(vm, pid)
    await what_there_is(vm)
    await what_is_refused(vm)
    await stops_and_goes_on(vm)
    await restarts_itself(vm)
    await does_not_move_to_nobody(vm)
    await is_called_back(vm, forsaken)
    there = await Vm("receiver").connect(receiver)
    same(await there.ask("query-status"), {"running": False, "status": "inmigrate"})
    same(await there.ask("query-cpus-fast"), [])
    await moves(vm, uri)
    await arrives(there, identity)
    await panics(await Vm("panicking").connect(panicking))
    await switches_itself_off(await Vm("ending").connect(ending))


asyncio.run(main(*sys.argv[1:]))
