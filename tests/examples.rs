//! The examples check what they claim; here they are run.

#[path = "../examples/custom_backend.rs"]
mod custom_backend;
#[path = "../examples/embed_user_space.rs"]
mod embed_user_space;
#[path = "../examples/kernel_embedder.rs"]
mod kernel_embedder;
#[path = "../examples/policy.rs"]
mod policy;
#[path = "../examples/virtio_drivers.rs"]
mod virtio_drivers;
#[path = "../examples/vm_memory.rs"]
mod vm_memory;

#[test]
fn a_backend_of_ones_own() {
    custom_backend::main().unwrap();
}

#[test]
fn a_driver_in_user_space() {
    embed_user_space::main().unwrap();
}

#[test]
fn a_kernel_with_its_cpus() {
    kernel_embedder::main().unwrap();
}

#[test]
fn who_may_be_lazy() {
    policy::main().unwrap();
}

#[test]
fn the_hal_of_virtio_drivers() {
    virtio_drivers::main().unwrap();
}

#[test]
fn the_iommu_of_vm_memory() {
    vm_memory::main().unwrap();
}
