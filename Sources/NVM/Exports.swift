// `import NVM` brings in every layer below.
@_exported import NVMBTree
@_exported import NVMRegion
@_exported import NVMalloc
