"""The demonstration: a throwaway node and a miniature PACS on free loopback ports, fed with a phantom study."""
