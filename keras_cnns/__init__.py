"""GoogLeNet and ResNet in Keras 3: build, train and diagnose the classic deep CNNs."""
