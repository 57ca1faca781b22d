"""Tools around the models: conversion of checkpoints."""
