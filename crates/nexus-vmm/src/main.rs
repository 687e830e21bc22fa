use nexus_vmm::kvm::probe;

fn main() {
    println!(
        "{}",
        serde_json::to_string(&probe::Report::make()).unwrap_or_default()
    );
}
