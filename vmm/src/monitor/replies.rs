//! What a VM reports, in QMP's words.

use std::time::Duration;

use hw::core::MachineType;
use migration::ident::Id;
use serde_json::{Map, Value, json};

use super::qmp::version;
use crate::{
    control::{
        ChardevInfo, Control, JobId, MigrationInfo, MigrationParameters, MigrationStatus, PauseReport, RamInfo,
        VcpuInfo, VmInfo,
    },
    run_state::RunState,
};

/// Members that are there only if there is something to say.
struct Members(Map<String, Value>);

impl Members {
    fn set(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
    }
}

pub(super) fn status(state: RunState) -> Value {
    json!({ "running": state == RunState::Running, "status": state.qmp_name() })
}

pub(super) fn info(vm: &dyn Control) -> Value {
    let info = vm.info();
    let mut reply = Members(Map::new());
    reply.set("name", Some(vm.name()));
    reply.set("status", Some(vm.status().qmp_name()));
    reply.set("state", Some(vm.status().name()));
    reply.set("pid", Some(std::process::id()));
    reply.set("version", Some(version()["package"].clone()));
    reply.set("machine", info.machine);
    reply.set("accelerator", info.accelerator);
    reply.set("cpu-model", info.cpu_model);
    reply.set("cpus", info.cpus);
    reply.set("memory", info.memory_bytes);
    reply.set("vm-id", info.vm_id);
    reply.set("instance-id", info.instance_id);
    reply.set("trouble", info.trouble);
    Value::Object(reply.0)
}

pub(super) fn kvm(info: &VmInfo) -> Value {
    json!({ "enabled": info.accelerator.as_deref() == Some("kvm"), "present": true })
}

/// As QEMU does, with zeros where there is no guest yet whose identity that would be.
pub(super) fn uuid(info: &VmInfo) -> Value {
    let identity = info.vm_id.clone().unwrap_or_else(|| Id::default().to_string());
    json!({ "UUID": identity })
}

/// A vCPU as QMP's `CpuInfoFast` describes it: one thread of a core of the one package.
pub(super) fn vcpu(vcpu: &VcpuInfo) -> Value {
    let mut entry = Members(Map::new());
    entry.set("cpu-index", Some(vcpu.apic_id));
    entry.set("qom-path", Some(vcpu.path.as_str()));
    entry.set("thread-id", vcpu.thread_id);
    entry.set("target", Some("x86_64"));
    let place = json!({ "socket-id": 0, "core-id": vcpu.apic_id, "thread-id": 0 });
    entry.set("props", Some(place));
    Value::Object(entry.0)
}

pub(super) fn chardev(chardev: &ChardevInfo) -> Value {
    json!({ "label": chardev.label, "filename": chardev.address, "frontend-open": chardev.has_guest })
}

pub(super) fn parameters(parameters: &MigrationParameters) -> Value {
    let mut reply = Members(Map::new());
    reply.set("downtime-limit", parameters.downtime_limit.map(millis));
    reply.set("max-bandwidth", parameters.max_bandwidth);
    reply.set("avail-switchover-bandwidth", parameters.switchover_bandwidth);
    Value::Object(reply.0)
}

/// Machines as QMP's `MachineInfo` describes them.
#[must_use]
pub fn machine_list(machines: &[MachineType]) -> Vec<Value> {
    let entry = |machine: &MachineType| {
        let mut entry = Members(Map::new());
        entry.set("name", Some(machine.name));
        entry.set("alias", machine.class.alias);
        entry.set("is-default", machine.class.is_default.then_some(true));
        entry.set("cpu-max", Some(machine.class.max_cpus));
        entry.set("hotpluggable-cpus", Some(false));
        entry.set("numa-mem-supported", Some(false));
        entry.set("deprecated", Some(false));
        entry.set("x-tern-description", Some(machine.class.description));
        Value::Object(entry.0)
    };
    machines.iter().map(entry).collect()
}

pub(super) fn migration(info: &MigrationInfo) -> Value {
    let mut reply = Members(Map::new());
    // QEMU has nothing to say before the first migration.
    reply.set(
        "status",
        (info.status != MigrationStatus::None).then(|| info.status.qmp_name()),
    );
    reply.set("x-tern-job", info.job.map(|JobId(job)| job));
    reply.set("total-time", info.total_time.map(millis));
    reply.set("setup-time", info.setup_time.map(millis));
    reply.set("downtime", info.downtime.map(millis));
    reply.set("x-tern-downtime-us", info.downtime.map(micros));
    reply.set("x-tern-pause", info.pause.as_ref().map(pause));
    let taken_back = (info.pauses_taken_back > 0).then_some(info.pauses_taken_back);
    reply.set("x-tern-pauses-taken-back", taken_back);
    reply.set("expected-downtime", info.expected_downtime.map(millis));
    reply.set("error-desc", info.error.clone());
    reply.set("x-tern-to", info.to.clone());
    reply.set("x-tern-listening", info.listening.clone());
    let address = info.listening.as_deref().and_then(socket_address);
    reply.set("socket-address", address.map(|address| vec![address]));
    reply.set("ram", info.ram.as_ref().map(ram));
    Value::Object(reply.0)
}

/// What a pause went into. The parts follow each other, but `load-us` is within `ready-us`, and `resume-us` within `handover-us`.
fn pause(pause: &PauseReport) -> Value {
    json!({
        "predicted-us": micros(pause.predicted),
        "total-us": micros(pause.total()),
        "stop-us": micros(pause.stop),
        "save-us": micros(pause.save),
        "ram-us": micros(pause.ram),
        "state-us": micros(pause.state),
        "ready-us": micros(pause.ready),
        "load-us": micros(pause.load),
        "handover-us": micros(pause.handover),
        "resume-us": micros(pause.resume),
        "ram-bytes": pause.ram_bytes,
        "state-bytes": pause.state_bytes,
    })
}

fn ram(ram: &RamInfo) -> Value {
    json!({
        "transferred": ram.transferred_bytes,
        "remaining": ram.remaining_bytes,
        "total": ram.total_bytes,
        "duplicate": ram.zero_pages,
        "normal": ram.normal_pages,
        "normal-bytes": ram.normal_pages.saturating_mul(ram.page_bytes),
        "dirty-pages-rate": ram.dirty_pages_per_second,
        "dirty-sync-count": ram.rounds,
        "page-size": ram.page_bytes,
        "mbps": megabits(ram.bytes_per_second),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people needs no more than 53 bits")]
fn megabits(bytes_per_second: u64) -> f64 {
    bytes_per_second as f64 * 8.0 / 1e6
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A listening URI as QEMU's `SocketAddress`.
fn socket_address(uri: &str) -> Option<Value> {
    match uri.split_once(':')? {
        ("tcp", address) => {
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some(json!({ "type": "inet", "host": host, "port": port }))
        }
        ("unix", path) => Some(json!({ "type": "unix", "path": path })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_reported_as_qemu_would() {
        let info = MigrationInfo {
            status: MigrationStatus::Active,
            total_time: Some(Duration::from_millis(1500)),
            ram: Some(RamInfo {
                normal_pages: 3,
                page_bytes: 4096,
                bytes_per_second: 1_000_000,
                rounds: 2,
                ..RamInfo::default()
            }),
            ..MigrationInfo::default()
        };
        let reply = migration(&info);
        assert_eq!(reply["status"], "active");
        assert_eq!(reply["total-time"], 1500);
        assert_eq!(reply["ram"]["normal-bytes"], 12288);
        assert_eq!(reply["ram"]["mbps"], 8.0);
        assert_eq!(reply.get("downtime"), None);
    }

    #[test]
    fn a_pause_below_a_millisecond_is_not_lost() {
        let info = MigrationInfo {
            downtime: Some(Duration::from_micros(740)),
            ..MigrationInfo::default()
        };
        assert_eq!(migration(&info)["downtime"], 0);
        assert_eq!(migration(&info)["x-tern-downtime-us"], 740);
    }

    #[test]
    fn the_parts_of_a_pause_have_their_units_in_their_names_and_add_up() {
        let parts = ["stop", "save", "ram", "state", "ready", "handover"];
        let micros = Duration::from_micros;
        let info = MigrationInfo {
            pause: Some(PauseReport {
                stop: micros(1),
                save: micros(10),
                ram: micros(100),
                state: micros(1000),
                ready: micros(10_000),
                handover: micros(100_000),
                ram_bytes: 7,
                ..PauseReport::default()
            }),
            pauses_taken_back: 2,
            ..MigrationInfo::default()
        };
        let reply = migration(&info);
        let pause = &reply["x-tern-pause"];
        let sum: u64 = parts
            .iter()
            .map(|part| pause[format!("{part}-us")].as_u64().expect(part))
            .sum();
        assert_eq!((sum, pause["total-us"].as_u64()), (111_111, Some(111_111)));
        assert_eq!(pause["ram-bytes"], 7);
        assert_eq!(reply["x-tern-pauses-taken-back"], 2);
        assert_eq!(migration(&MigrationInfo::default()).get("x-tern-pause"), None);
    }

    #[test]
    fn a_vm_without_a_guest_has_the_identity_that_is_none() {
        assert_eq!(uuid(&VmInfo::default())["UUID"], "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn only_a_guest_under_kvm_has_kvm_enabled() {
        let under = |name: &str| {
            kvm(&VmInfo {
                accelerator: Some(name.to_owned()),
                ..VmInfo::default()
            })
        };
        assert_eq!(under("kvm"), json!({ "enabled": true, "present": true }));
        assert_eq!(under("qtest"), json!({ "enabled": false, "present": true }));
    }

    #[test]
    fn a_vcpu_without_a_thread_names_none() {
        let described = |thread_id| {
            vcpu(&VcpuInfo {
                apic_id: 1,
                path: "/machine/cpu-1".to_owned(),
                thread_id,
            })
        };
        assert_eq!(
            described(Some(7)),
            json!({
                "cpu-index": 1, "qom-path": "/machine/cpu-1", "thread-id": 7, "target": "x86_64",
                "props": { "socket-id": 0, "core-id": 1, "thread-id": 0 },
            })
        );
        assert_eq!(described(None).get("thread-id"), None);
    }

    #[test]
    fn listening_addresses_are_taken_apart() {
        let inet = |host: &str, port: &str| Some(json!({ "type": "inet", "host": host, "port": port }));
        assert_eq!(socket_address("tcp:127.0.0.1:4444"), inet("127.0.0.1", "4444"));
        assert_eq!(socket_address("tcp:[::1]:4444"), inet("::1", "4444"));
        assert_eq!(
            socket_address("unix:/run/a:b"),
            Some(json!({ "type": "unix", "path": "/run/a:b" }))
        );
        assert_eq!(socket_address("file:/x"), None);
    }
}
