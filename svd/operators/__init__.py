"""The layers' operators, each in the formulations that suit Ascend, CPU and any device."""
